//! Reads a role's page of metrics, in the text format of Prometheus.

/// The samples of one metric: the labels as they are written, and the value.
pub fn samples<'a>(page: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    page.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        Some((labels, value.trim().parse().ok()?))
    })
}

/// A metric without labels, or the sum of all that it is divided into. None where the page does not have it.
pub fn total(page: &str, name: &str) -> Option<u64> {
    let mut samples = samples(page, name).peekable();
    samples.peek()?;
    Some(samples.map(|(_, value)| value.max(0.0) as u64).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let page = "# HELP a_total What a does.\n# TYPE a_total counter\n\
                    a_total{outcome=\"complete\"} 12\na_total{outcome=\"refused\"} 3\n\
                    a_total_more 7\na 1e3\nbroken{x=\"\na_total{outcome=\"odd\"} many\n";
        let outcomes: Vec<_> = samples(page, "a_total").collect();
        assert_eq!(outcomes, [("outcome=\"complete\"", 12.0), ("outcome=\"refused\"", 3.0)]);
        assert_eq!(
            (total(page, "a_total"), total(page, "a"), total(page, "b")),
            (Some(15), Some(1000), None)
        );
    }
}

//! A simulated world as pictures.

use super::plan::Plan;
use super::tally::{Second, Tally};
use std::fmt::Write as _;

struct Line {
    name: String,
    colour: &'static str,
    values: Vec<f64>,
}

/// Served, shed and failed requests by the second of their arrival, goodput, and each region's share of attempts.
pub fn svg(title: &str, plan: &Plan, tally: &Tally) -> String {
    let all = |counts: [u32; 3]| f64::from(counts.iter().sum::<u32>());
    // The last second also holds what came after the end.
    let seconds = &tally.seconds[..tally.seconds.len() - 1];
    let line = |name: &str, colour, value: &dyn Fn(&Second) -> f64| Line {
        name: name.to_owned(),
        colour,
        values: seconds.iter().map(value).collect(),
    };
    let requests = [
        line("served", COLOURS[2], &|second| all(second.served)),
        line("shed", COLOURS[1], &|second| all(second.shed)),
        line("failed", COLOURS[3], &|second| all(second.failed)),
    ];
    let goodput = [line("1000 prompt tokens", COLOURS[0], &|second| second.goodput_tokens as f64 / 1000.0)];
    let shares: Vec<Line> = plan
        .regions
        .iter()
        .enumerate()
        .map(|(at, region)| Line {
            name: region.name.to_string(),
            colour: COLOURS[at % COLOURS.len()],
            values: (0..seconds.len())
                .map(|second| 100.0 * tally.share(at, second.saturating_sub(SMOOTHED_S - 1)..second + 1))
                .collect(),
        })
        .collect();
    let panels = [
        ("requests a second", &requests[..]),
        ("goodput a second", &goodput),
        ("share of attempts, %", &shares),
    ];
    let height = TOP + panels.len() as f64 * (PANEL + GAP);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"15\">{title} (seed {})</text>\n",
        tally.seed
    );
    for (at, (name, lines)) in panels.into_iter().enumerate() {
        panel(&mut text, name, lines, TOP + at as f64 * (PANEL + GAP));
    }
    text.push_str("</svg>\n");
    text
}

fn panel(text: &mut String, name: &str, lines: &[Line], top: f64) {
    let largest = lines.iter().flat_map(|line| &line.values).copied().fold(1.0, f64::max);
    let bottom = top + PANEL;
    let right = WIDTH - 10.0;
    let mut draw = |part: std::fmt::Arguments<'_>| {
        let _ = text.write_fmt(part);
    };
    draw(format_args!(
        "<path d=\"M{LEFT} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#888\"/>\n\
         <text x=\"{LEFT}\" y=\"{:.0}\">{name}</text>\n\
         <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{largest:.0}</text>\n\
         <text x=\"{:.0}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\n",
        top - 6.0,
        LEFT - 5.0,
        top + 10.0,
        LEFT - 5.0,
    ));
    let seconds = lines.first().map_or(0, |line| line.values.len());
    for quarter in 0..=4 {
        let x = LEFT + f64::from(quarter) / 4.0 * (right - LEFT);
        let second = seconds * quarter as usize / 4;
        draw(format_args!(
            "<text x=\"{x:.0}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#888\" font-size=\"10\">{second} s</text>\n",
            bottom + 12.0
        ));
    }
    for (at, line) in lines.iter().enumerate() {
        let last = line.values.len().saturating_sub(1).max(1) as f64;
        draw(format_args!("<polyline fill=\"none\" stroke=\"{}\" points=\"", line.colour));
        for (second, value) in line.values.iter().enumerate() {
            let x = LEFT + second as f64 / last * (right - LEFT);
            draw(format_args!("{x:.1},{:.1} ", bottom - value / largest * PANEL));
        }
        let x = LEFT + 200.0 + at as f64 * 120.0;
        draw(format_args!(
            "\"/>\n<text x=\"{x}\" y=\"{:.0}\" fill=\"{}\">{}</text>\n",
            top - 6.0,
            line.colour,
            line.name
        ));
    }
}

const COLOURS: [&str; 5] = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"];
const SMOOTHED_S: usize = 5;
const WIDTH: f64 = 900.0;
const LEFT: f64 = 50.0;
const TOP: f64 = 50.0;
const PANEL: f64 = 140.0;
const GAP: f64 = 50.0;

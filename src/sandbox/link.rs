//! `rhumb sandbox link`: how the links between regions are, and what is to be wrong with them.

use crate::failure::WrongUsage;
use crate::sandbox::control::{self, Answer, Question};
use crate::sandbox::layout::Regions;
use crate::sandbox::paths::Paths;
use crate::sandbox::{kept_layout, known_region};
use crate::table::table;
use crate::{duration, stdout};
use anyhow::bail;
use chaos::network::{Faults, LinkReport};
use clap::Args;
use std::num::NonZeroU64;
use std::time::Duration;
use types::RegionName;

/// Which links, and what is to be wrong with them.
#[derive(Debug, Args)]
pub struct Links {
    /// The region at one end [default: all links]
    a: Option<RegionName>,
    /// The region at the other end [default: all that A has links to]
    b: Option<RegionName>,
    /// Let nothing through; what was sent waits until the link heals
    #[arg(long)]
    partition: bool,
    /// Let each direction take so much longer than the distance does, such as 100ms
    #[arg(long, value_name = "TIME", value_parser = delay)]
    delay: Option<Duration>,
    /// Lose so many percent of the segments, which come late then, as with TCP
    #[arg(long, value_name = "PERCENT", value_parser = loss)]
    loss: Option<u32>,
    /// Carry no more than this in a second, such as 10mbit
    #[arg(long, value_name = "RATE", value_parser = bandwidth)]
    bandwidth: Option<NonZeroU64>,
    /// Only what goes from A to B
    #[arg(long, requires = "b")]
    one_way: bool,
    /// Take all faults away
    #[arg(long, conflicts_with_all = ["partition", "delay", "loss", "bandwidth"])]
    heal: bool,
}

impl Links {
    pub fn run(&self, paths: &Paths, json: bool) -> anyhow::Result<()> {
        let regions = kept_layout(paths)?.regions;
        for region in [&self.a, &self.b].into_iter().flatten() {
            known_region(paths, region.clone())?;
        }
        let meant = self.meant(&regions)?;
        let question = match self.faults() {
            Some(faults) => Question::Fault { links: meant.clone(), faults },
            None => Question::Links,
        };
        let mut links = match control::ask(paths, &question)? {
            Answer::Links { links } => links,
            Answer::Refused { problem } => bail!(problem),
            other => bail!("the sandbox answers something else: {other:?}"),
        };
        links.retain(|link| meant.contains(&(link.from.clone(), link.to.clone())));
        if json {
            stdout::print_json(&links)?;
        } else {
            stdout::print(&shown(&links))?;
        }
        Ok(())
    }

    /// None = nothing is to change.
    fn faults(&self) -> Option<Faults> {
        let faults = Faults {
            is_cut: self.partition,
            delay_ms: self.delay.map_or(0, |delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            loss_per_million: self.loss.unwrap_or(0),
            bytes_per_second: self.bandwidth,
        };
        (self.heal || !faults.is_none()).then_some(faults)
    }

    /// The directions that were named.
    fn meant(&self, regions: &Regions) -> Result<Vec<(RegionName, RegionName)>, WrongUsage> {
        let names = regions.names();
        if names.len() < 2 {
            return Err(WrongUsage(format!("this sandbox has one region, {regions}, and so no links")));
        }
        if self.a.is_some() && self.a == self.b {
            return Err(WrongUsage("a link has two ends; name two different regions".to_owned()));
        }
        let all = names.iter().flat_map(|from| names.iter().map(move |to| (from.clone(), to.clone())));
        let is_meant = |(from, to): &(RegionName, RegionName)| {
            let joins = |a: &Option<RegionName>, b: &Option<RegionName>| {
                a.as_ref().is_none_or(|a| a == from) && b.as_ref().is_none_or(|b| b == to)
            };
            from != to && (joins(&self.a, &self.b) || (!self.one_way && joins(&self.b, &self.a)))
        };
        Ok(all.filter(is_meant).collect())
    }
}

/// What is wrong with a link, in words.
pub fn state(faults: &Faults) -> String {
    let mut words = Vec::new();
    if faults.is_cut {
        words.push("cut".to_owned());
    }
    if faults.delay_ms > 0 {
        words.push(format!("+{} ms", faults.delay_ms));
    }
    if faults.loss_per_million > 0 {
        words.push(format!("{} % lost", f64::from(faults.loss_per_million) / 1e4));
    }
    if let Some(rate) = faults.bytes_per_second {
        words.push(format!("{} Mbit/s", rate.get() as f64 * 8.0 / 1e6));
    }
    if words.is_empty() { "well".to_owned() } else { words.join(", ") }
}

fn shown(links: &[LinkReport]) -> String {
    let head = ["FROM", "TO", "ROUND TRIP", "STATE", "CONNECTIONS", "CARRIED", "LOST", "WAITING"];
    let row = |link: &LinkReport| {
        [
            link.from.to_string(),
            link.to.to_string(),
            format!("{:.0} ms", link.round_trip_us as f64 / 1e3),
            state(&link.faults),
            link.connections.to_string(),
            format!("{:.1} MB", link.bytes_total as f64 / 1e6),
            link.lost_total.to_string(),
            format!("{} B", link.bytes_in_flight),
        ]
    };
    table(head.map(str::to_owned), links.iter().map(row))
}

fn delay(text: &str) -> Result<Duration, String> {
    let delay = duration::parse_some(text)?;
    if delay <= DELAY_MAX { Ok(delay) } else { Err(format!("a delay is {} s at most", DELAY_MAX.as_secs())) }
}

/// Percent as typed, in millionths.
fn loss(text: &str) -> Result<u32, &'static str> {
    let percent: f64 = text.trim_end_matches('%').trim().parse().map_err(|_| LOSS)?;
    // More would never come through; that is what `--partition` is for.
    if (0.0001..=LOSS_PERCENT_MAX).contains(&percent) {
        Ok((percent * 1e4).round() as u32)
    } else {
        Err(LOSS)
    }
}

/// Bits as typed, bytes as counted.
fn bandwidth(text: &str) -> Result<NonZeroU64, &'static str> {
    let unit = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let bits = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, bits)| *bits).ok_or(BANDWIDTH)?;
    let digits = text.strip_suffix(unit).unwrap_or_default();
    let number: u64 = digits.parse().map_err(|_| BANDWIDTH)?;
    let bytes = number.checked_mul(bits).ok_or(BANDWIDTH)? / 8;
    NonZeroU64::new(bytes).ok_or(BANDWIDTH)
}

const UNITS: [(&str, u64); 3] = [("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];
const BANDWIDTH: &str = "a rate is a whole number with kbit, mbit or gbit, such as 10mbit";
const LOSS: &str = "a loss is a percentage above 0 and at most 90, such as 5 or 0.1";
/// Longer than anybody waits for an answer.
const DELAY_MAX: Duration = Duration::from_secs(60);
const LOSS_PERCENT_MAX: f64 = 90.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::layout::Layout;

    fn link(words: &str) -> Links {
        use clap::{Args as _, FromArgMatches};
        let command = Links::augment_args(clap::Command::new("link"));
        let words = std::iter::once("link").chain(words.split_whitespace());
        Links::from_arg_matches(&command.try_get_matches_from(words).unwrap()).unwrap()
    }

    fn meant(words: &str) -> Vec<String> {
        let regions = Layout::new(0, "a,b,c".parse().unwrap()).regions;
        let links = link(words).meant(&regions).unwrap();
        links.iter().map(|(from, to)| format!("{from}{to}")).collect()
    }

    #[test]
    fn links_are_named_by_none_one_or_two_ends() {
        assert_eq!(meant("").len(), 6);
        assert_eq!(meant("b"), ["ab", "ba", "bc", "cb"]);
        assert_eq!(meant("a c"), ["ac", "ca"]);
        assert_eq!(meant("c a --one-way --partition"), ["ca"]);
    }

    #[test]
    fn a_link_needs_two_ends() {
        let three = Layout::new(0, "a,b,c".parse().unwrap()).regions;
        assert!(link("a a").meant(&three).unwrap_err().to_string().contains("two different"));
        let one = Layout::new(0, "a".parse().unwrap()).regions;
        assert!(link("").meant(&one).unwrap_err().to_string().contains("one region"));
    }

    #[test]
    fn what_is_not_named_is_well() {
        assert_eq!(link("a b").faults(), None);
        assert_eq!(link("a b --heal").faults(), Some(Faults::default()));
        let faults = link("a b --delay 100ms --loss 0.5% --bandwidth 8mbit").faults().unwrap();
        assert_eq!(state(&faults), "+100 ms, 0.5 % lost, 8 Mbit/s");
        assert_eq!((faults.loss_per_million, faults.bytes_per_second.unwrap().get()), (5_000, 1_000_000));
        assert_eq!(state(&link("--partition").faults().unwrap()), "cut");
    }

    #[test]
    fn impossible_numbers_are_refused() {
        for bad in ["", "0", "-1", "91", "100%", "nan", "inf", "many"] {
            assert!(loss(bad).is_err(), "{bad}");
        }
        for bad in ["", "10", "mbit", "0mbit", "7bit", "1.5mbit", "99999999999999999999gbit", "4kbyte"] {
            assert!(bandwidth(bad).is_err(), "{bad}");
        }
        assert_eq!((delay("60s").is_ok(), delay("61s").is_ok(), delay("0").is_ok()), (true, false, false));
    }
}

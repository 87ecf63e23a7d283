//! The same picture for pipes: a line for each thing, so that `grep region` and `grep 'link us-east'` work. Pure.

use crate::sandbox::link;
use crate::sandbox::view::draw::UNKNOWN;
use crate::sandbox::view::picture::{Link, Picture, Region, time_of_day};
use std::fmt::{Display, Write};

pub fn lines(picture: &Picture) -> String {
    let time = time_of_day(picture.at_ms);
    let mut text = String::new();
    let mut line = |words: String| writeln!(text, "{time} {words}").expect("a string takes any text");
    for event in &picture.events {
        line(format!("event {event}"));
    }
    let (leader, revision) = (known(picture.leader.as_ref()), known(picture.revision));
    line(format!("control-plane leader={leader} revision={revision}"));
    picture.regions.iter().for_each(|region| line(region_line(region)));
    picture.links.iter().flatten().for_each(|link| line(link_line(link)));
    text
}

fn region_line(region: &Region) -> String {
    let Region { name, failed, .. } = region;
    format!(
        "region {name} state={} edge={} voter={} streams={} requests/s={} failed={failed} tokens/s={} \
         replicas={}/{} queued={} running={}",
        region.state.as_str(),
        region.edge.as_str(),
        known(region.voter.map(super::picture::Voter::as_str)),
        known(region.streams),
        known(region.requests_per_second),
        known(region.tokens_per_second),
        known(region.replicas),
        known(region.replicas_wanted),
        known(region.queued),
        known(region.running),
    )
}

fn link_line(Link { report, carried_per_second }: &Link) -> String {
    format!(
        "link {} {} rtt={:.1}ms connections={} bytes/s={} waiting={}B state={:?}",
        report.from,
        report.to,
        report.round_trip_us as f64 / 1e3,
        report.connections,
        known(*carried_per_second),
        report.bytes_in_flight,
        link::state(&report.faults),
    )
}

fn known(value: Option<impl Display>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::view::samples::{self, Matter};

    #[test]
    fn each_thing_has_a_line() {
        let layout = samples::layout(2);
        let first = Picture::of(samples::look(&layout, 1, &Matter::default()), None);
        let hangs = Matter { hanging: vec!["us-east"], ..Matter::default() };
        let second = Picture::of(samples::look(&layout, 2, &hangs), Some(&first));
        insta::assert_snapshot!(lines(&second));
    }
}

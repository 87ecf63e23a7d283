//! Draws a picture as lines that fit a terminal. Pure.

use crate::sandbox::status::State;
use crate::sandbox::view::columns::{self, Column, bad, faint, plain, well, worse};
use crate::sandbox::view::links;
use crate::sandbox::view::measure::EdgeState;
use crate::sandbox::view::picture::{Picture, Region, Voter, time_of_day};
use ratatui::text::{Line, Span};
use std::collections::VecDeque;
use types::UnixMs;

/// The last events, oldest first.
#[derive(Debug, Default)]
pub struct Events(VecDeque<(UnixMs, String)>);

impl Events {
    pub fn add(&mut self, at: UnixMs, event: String) {
        self.0.push_back((at, event));
        while self.0.len() > EVENTS_MAX {
            self.0.pop_front();
        }
    }
}

/// No more lines than `height`, none wider than `width`.
pub fn draw(picture: &Picture, events: &Events, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default(), head(picture)];
    lines.extend(columns::lines(regions(&picture.regions), width));
    let left = height.saturating_sub(lines.len());
    let known = picture.links.as_deref().unwrap_or_default();
    // Where room is scarce, links and events share it; each has a blank line above.
    let events_max = if known.is_empty() { left } else { left / 2 }.saturating_sub(1);
    let latest = events.0.iter().skip(events.0.len().saturating_sub(events_max));
    let latest: Vec<Line<'static>> = latest.map(|(at, event)| said(*at, event)).collect();
    let below = if latest.is_empty() { 0 } else { latest.len() + 1 };
    let links = links::lines(known, width, left.saturating_sub(below + 1));
    for block in [links, latest] {
        if !block.is_empty() {
            lines.push(Line::default());
            lines.extend(block);
        }
    }
    lines.truncate(height);
    lines.into_iter().map(|line| columns::cut(line, width)).collect()
}

fn head(picture: &Picture) -> Line<'static> {
    let time = faint(time_of_day(picture.at_ms));
    let control_plane = match (&picture.leader, picture.revision) {
        (Some(leader), Some(revision)) => {
            vec![plain(format!("{leader} leads the control plane, revision {revision}"))]
        }
        (None, Some(revision)) => {
            vec![bad("No leader"), plain(format!(" at revision {revision}: requests go on, changes wait"))]
        }
        (_, None) => vec![bad("The control plane does not answer"), plain(": requests go on, changes wait")],
    };
    let mut spans = vec![time, plain("  ")];
    spans.extend(control_plane);
    Line::from(spans)
}

fn regions(regions: &[Region]) -> Vec<Column> {
    let cells = |cell: fn(&Region) -> Span<'static>| regions.iter().map(cell).collect::<Vec<_>>();
    let wide = regions.iter().any(|region| region.voter.is_some());
    let mut all = vec![
        Column::words("REGION", 0, cells(|region| plain(region.name.to_string()))),
        Column::words("STATE", 1, cells(state)),
        Column::words("EDGE", 4, cells(edge)),
        Column::numbers("STREAMS", 3, cells(|region| count(region.streams))),
        Column::numbers("REQ/S", 5, cells(|region| per_second(region.requests_per_second))),
        Column::numbers("FAILED", 7, cells(failed)),
        Column::numbers("TOKENS/S", 9, cells(|region| per_second(region.tokens_per_second))),
        Column::numbers("REPLICAS", 2, cells(replicas)),
        Column::numbers("QUEUED", 6, cells(|region| count(region.queued))),
        Column::numbers("RUNNING", 8, cells(|region| count(region.running))),
    ];
    if wide {
        all.push(Column::words("VOTER", 10, cells(voter)));
    }
    all
}

fn state(region: &Region) -> Span<'static> {
    let word = region.state.as_str();
    match region.state {
        State::Serving => well(word),
        State::Drained | State::Idle => plain(word),
        State::Degraded => worse(word),
        State::Down => bad(word),
    }
}

fn edge(region: &Region) -> Span<'static> {
    let word = region.edge.as_str();
    match region.edge {
        EdgeState::Ready => plain(word),
        EdgeState::Waits => worse(word),
        EdgeState::Hangs | EdgeState::Down => bad(word),
    }
}

fn replicas(region: &Region) -> Span<'static> {
    let (Some(serving), Some(wanted)) = (region.replicas, region.replicas_wanted) else {
        return faint(UNKNOWN);
    };
    let cell = format!("{serving}/{wanted}");
    match serving {
        _ if serving >= wanted => plain(cell),
        0 => bad(cell),
        _ => worse(cell),
    }
}

fn failed(region: &Region) -> Span<'static> {
    if region.failed == 0 { faint("0") } else { bad(region.failed.to_string()) }
}

fn voter(region: &Region) -> Span<'static> {
    match region.voter {
        None => Span::default(),
        Some(Voter::Down) => bad(Voter::Down.as_str()),
        Some(voter) => plain(voter.as_str()),
    }
}

fn count(count: Option<u64>) -> Span<'static> {
    match count {
        None => faint(UNKNOWN),
        Some(0) => faint("0"),
        Some(count) => plain(count.to_string()),
    }
}

fn per_second(rate: Option<f64>) -> Span<'static> {
    match rate {
        None => faint(UNKNOWN),
        Some(0.0) => faint("0"),
        Some(rate) if rate < 10.0 => plain(format!("{rate:.1}")),
        Some(rate) => plain(format!("{rate:.0}")),
    }
}

fn said(at: UnixMs, event: &str) -> Line<'static> {
    Line::from(vec![faint(time_of_day(at)), plain("  "), plain(event.to_owned())])
}

pub const UNKNOWN: &str = "-";
/// Older ones matter less than the room that they take.
const EVENTS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::layout::Layout;
    use crate::sandbox::view::samples::{self, Matter};
    use chaos::network::Faults;

    /// As it stands on a terminal, a minute after everything was well.
    fn shown(layout: &Layout, matter: &Matter, width: usize, height: usize) -> String {
        let well = Picture::of(samples::look(layout, 60, &Matter::default()), None);
        let mut picture = Picture::of(samples::look(layout, 120, matter), Some(&well));
        let mut events = Events::default();
        for event in std::mem::take(&mut picture.events) {
            events.add(picture.at_ms, event);
        }
        let lines = draw(&picture, &events, width, height);
        assert!(lines.len() <= height);
        let text: Vec<String> = lines
            .iter()
            .inspect(|line| assert!(line.width() <= width, "{line}"))
            .map(|line| line.to_string().trim_end().to_owned())
            .collect();
        text.join("\n")
    }

    fn trouble() -> Matter {
        let cut = Faults { is_cut: true, ..Faults::default() };
        let late = Faults { delay_ms: 50, loss_per_million: 20_000, ..Faults::default() };
        Matter {
            down: vec!["eu-west"],
            faults: vec![
                ("us-east", "ap-south", cut),
                ("ap-south", "us-east", cut),
                ("eu-west", "us-east", late),
            ],
            ..Matter::default()
        }
    }

    #[test]
    fn three_regions_that_are_well() {
        insta::assert_snapshot!(shown(&samples::layout(3), &Matter::default(), 100, 39));
    }

    #[test]
    fn a_region_that_is_down_and_links_that_are_cut() {
        insta::assert_snapshot!(shown(&samples::layout(3), &trouble(), 100, 39));
    }

    #[test]
    fn no_leader_an_edge_that_hangs_and_a_drained_region() {
        let matter = Matter {
            has_no_leader: true,
            hanging: vec!["ap-south"],
            drained: vec!["us-east"],
            ..Matter::default()
        };
        insta::assert_snapshot!(shown(&samples::layout(3), &matter, 79, 23));
    }

    #[test]
    fn a_narrow_and_low_terminal_keeps_what_matters() {
        insta::assert_snapshot!(shown(&samples::layout(3), &trouble(), 59, 19));
        insta::assert_snapshot!(shown(&samples::layout(3), &trouble(), 39, 9));
    }

    #[test]
    fn sixteen_regions_on_a_large_terminal_and_on_a_usual_one() {
        insta::assert_snapshot!(shown(&samples::layout(16), &trouble(), 119, 59));
        insta::assert_snapshot!(shown(&samples::layout(16), &trouble(), 119, 39));
        insta::assert_snapshot!(shown(&samples::layout(16), &trouble(), 79, 23));
    }

    #[test]
    fn one_region_has_no_links() {
        insta::assert_snapshot!(shown(&samples::layout(1), &Matter::default(), 79, 23));
    }

    #[test]
    fn any_size_will_do() {
        for (width, height) in
            (0..130).flat_map(|width| [0, 1, 2, 5, 9, 18, 39].map(|height| (width, height)))
        {
            for regions in [1, 3, 16] {
                shown(&samples::layout(regions), &trouble(), width, height);
            }
        }
    }
}

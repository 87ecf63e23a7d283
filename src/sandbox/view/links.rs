//! Draws the links: each pair of regions while there is room for that, else all round trips as a matrix, else those
//! that matter most. Pure.

use crate::sandbox::link;
use crate::sandbox::view::columns::{self, Column, bad, faint, plain, worse};
use crate::sandbox::view::picture::Link;
use ratatui::text::{Line, Span};
use types::RegionName;

/// No more lines than `height`; none in a sandbox of one region.
pub fn lines(links: &[Link], width: usize, height: usize) -> Vec<Line<'static>> {
    let pairs = Pair::all(links);
    if pairs.is_empty() || height == 0 {
        return Vec::new();
    }
    if pairs.len() + HEAD <= height {
        return list(&pairs, width);
    }
    let Some(mut matrix) = matrix(links, width).filter(|matrix| matrix.len() <= height) else {
        return notable(pairs, width, height);
    };
    let room = height - matrix.len();
    let faulty: Vec<Pair<'_>> = pairs.into_iter().filter(Pair::is_faulty).collect();
    if !faulty.is_empty() && room > HEAD + 1 {
        matrix.push(Line::default());
        matrix.extend(notable(faulty, width, room - 1));
    }
    matrix
}

/// Both directions between two regions.
struct Pair<'a> {
    there: &'a Link,
    back: &'a Link,
}

impl<'a> Pair<'a> {
    fn all(links: &'a [Link]) -> Vec<Self> {
        let names = regions(links);
        let at = |name: &RegionName| names.iter().position(|known| *known == name);
        let there = links.iter().filter(|link| at(&link.report.from) < at(&link.report.to));
        let pair = |there: &'a Link| {
            let back = links.iter().find(|back| back.joins(&there.report.to, &there.report.from))?;
            Some(Self { there, back })
        };
        there.filter_map(pair).collect()
    }

    fn is_faulty(&self) -> bool {
        !self.there.report.faults.is_none() || !self.back.report.faults.is_none()
    }

    fn carried_per_second(&self) -> f64 {
        self.there.carried_per_second.unwrap_or(0.0) + self.back.carried_per_second.unwrap_or(0.0)
    }
}

/// What is wrong, with an arrow for the direction unless it is both.
fn faults(pair: &Pair<'_>) -> Span<'static> {
    let (there, back) = (&pair.there.report.faults, &pair.back.report.faults);
    let words = match (there.is_none(), back.is_none()) {
        (true, true) => return faint("none"),
        _ if there == back => link::state(there),
        (false, true) => format!("→ {}", link::state(there)),
        (true, false) => format!("← {}", link::state(back)),
        (false, false) => format!("→ {}; ← {}", link::state(there), link::state(back)),
    };
    if there.is_cut || back.is_cut { bad(words) } else { worse(words) }
}

/// In the order in which they are told of.
fn regions(links: &[Link]) -> Vec<&RegionName> {
    let mut names = Vec::new();
    for link in links {
        for name in [&link.report.from, &link.report.to] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn list(pairs: &[Pair<'_>], width: usize) -> Vec<Line<'static>> {
    let cells = |cell: fn(&Pair<'_>) -> Span<'static>| pairs.iter().map(cell).collect::<Vec<_>>();
    let columns = vec![
        Column::words(
            "LINK",
            0,
            cells(|pair| plain(format!("{} ↔ {}", pair.there.report.from, pair.there.report.to))),
        ),
        Column::numbers("RTT", 2, cells(|pair| plain(format!("{} ms", millis(pair.there))))),
        Column::numbers(
            "CONNS",
            4,
            cells(|pair| number(pair.there.report.connections + pair.back.report.connections)),
        ),
        Column::numbers("→", 3, cells(|pair| bytes(pair.there.carried_per_second))),
        Column::numbers("←", 3, cells(|pair| bytes(pair.back.carried_per_second))),
        Column::words("FAULTS", 1, cells(faults)),
    ];
    columns::lines(columns, width)
}

/// Those with faults before the busiest, and how many are not shown.
fn notable(mut pairs: Vec<Pair<'_>>, width: usize, height: usize) -> Vec<Line<'static>> {
    pairs.sort_by(|a, b| {
        b.is_faulty().cmp(&a.is_faulty()).then(b.carried_per_second().total_cmp(&a.carried_per_second()))
    });
    let room = height.saturating_sub(HEAD);
    if pairs.len() <= room {
        return list(&pairs, width);
    }
    let hidden = pairs.split_off(room.saturating_sub(1));
    let (count, faulty) = (hidden.len(), hidden.iter().filter(|pair| pair.is_faulty()).count());
    if pairs.is_empty() {
        return vec![Line::from(plain(format!("{count} links, {faulty} with faults")))];
    }
    let mut lines = list(&pairs, width);
    lines.push(Line::from(faint(format!("and {count} links more, {faulty} with faults"))));
    lines
}

/// Round trips in milliseconds, from the rows to the columns. None where it is too wide.
fn matrix(links: &[Link], width: usize) -> Option<Vec<Line<'static>>> {
    let names = regions(links);
    let digits = names.len().to_string().len();
    let label = |at: usize| format!("{:>digits$} {}", at + 1, names[at]);
    let labels = (0..names.len()).map(|at| label(at).len()).max()?;
    if labels + names.len() * CELL > width {
        return None;
    }
    let mut head = vec![faint(format!("{:labels$}", "RTT in ms"))];
    head.extend((1..=names.len()).map(|at| faint(format!("{at:>CELL$}"))));
    let row = |at: usize| {
        let cell = |to: &&RegionName| {
            let link = links.iter().find(|link| link.joins(names[at], to));
            link.map_or_else(|| faint(format!("{:>CELL$}", "·")), cell)
        };
        let mut spans = vec![plain(format!("{:labels$}", label(at)))];
        spans.extend(names.iter().map(cell));
        Line::from(spans)
    };
    let mut lines = vec![Line::from(head)];
    lines.extend((0..names.len()).map(row));
    if links.iter().any(|link| !link.report.faults.is_none()) {
        lines.push(Line::from(faint("from row to column: cut = nothing passes, ! = late, lossy or slow")));
    }
    Some(lines)
}

fn cell(link: &Link) -> Span<'static> {
    let faults = &link.report.faults;
    if faults.is_cut {
        bad(format!("{:>CELL$}", "cut"))
    } else if faults.is_none() {
        plain(format!("{:>CELL$}", millis(link)))
    } else {
        worse(format!("{:>CELL$}", format!("{}!", millis(link))))
    }
}

fn millis(link: &Link) -> u64 {
    link.report.round_trip_us.div_ceil(1000)
}

fn number(count: u64) -> Span<'static> {
    if count == 0 { faint("0") } else { plain(count.to_string()) }
}

fn bytes(per_second: Option<f64>) -> Span<'static> {
    match per_second {
        None => faint("-"),
        Some(0.0) => faint("0"),
        Some(rate) if rate < 1e3 => plain(format!("{rate:.0} B/s")),
        Some(rate) if rate < 1e6 => plain(format!("{:.1} kB/s", rate / 1e3)),
        Some(rate) => plain(format!("{:.1} MB/s", rate / 1e6)),
    }
}

const HEAD: usize = 1;
/// Four digits and a mark; nothing on Earth is farther apart than 400 ms.
const CELL: usize = 5;

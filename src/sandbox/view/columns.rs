//! Rows that fit: columns as wide as their widest cell, and the least important left out where a terminal is narrow.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

pub struct Column {
    head: &'static str,
    cells: Vec<Span<'static>>,
    side: Side,
    /// Columns with the highest number are left out first.
    rank: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl Column {
    pub fn words(head: &'static str, rank: u8, cells: impl IntoIterator<Item = Span<'static>>) -> Self {
        Self { head, cells: cells.into_iter().collect(), side: Side::Left, rank }
    }

    pub fn numbers(head: &'static str, rank: u8, cells: impl IntoIterator<Item = Span<'static>>) -> Self {
        Self { side: Side::Right, ..Self::words(head, rank, cells) }
    }

    fn width(&self) -> usize {
        let cells = self.cells.iter().map(Span::width);
        cells.chain([Span::raw(self.head).width()]).max().unwrap_or(0)
    }

    fn padded(&self, cell: &Span<'static>) -> Vec<Span<'static>> {
        let space = Span::raw(" ".repeat(self.width().saturating_sub(cell.width())));
        match self.side {
            Side::Left => vec![cell.clone(), space],
            Side::Right => vec![space, cell.clone()],
        }
    }
}

/// A head and a line for each row.
pub fn lines(mut columns: Vec<Column>, width: usize) -> Vec<Line<'static>> {
    let total = |columns: &[Column]| {
        columns.iter().map(Column::width).sum::<usize>() + SPACE.len() * columns.len().saturating_sub(1)
    };
    while columns.iter().any(|column| column.rank > 0) && total(&columns) > width {
        let last = columns.iter().map(|column| column.rank).max();
        columns.retain(|column| Some(column.rank) != last);
    }
    let rows = columns.iter().map(|column| column.cells.len()).max().unwrap_or(0);
    let row = |cell: &dyn Fn(&Column) -> Span<'static>| {
        let mut spans = Vec::new();
        for column in &columns {
            if !spans.is_empty() {
                spans.push(Span::raw(SPACE));
            }
            spans.extend(column.padded(&cell(column)));
        }
        Line::from(spans)
    };
    let head = row(&|column| faint(column.head));
    let cell = |at: usize| move |column: &Column| column.cells.get(at).cloned().unwrap_or_default();
    std::iter::once(head).chain((0..rows).map(|at| row(&cell(at)))).collect()
}

/// So much of a line as fits, and a sign where there is more.
pub fn cut(line: Line<'static>, width: usize) -> Line<'static> {
    if line.width() <= width {
        return line;
    }
    let (mut left, mut spans) = (width.saturating_sub(1), Vec::new());
    for span in line.spans {
        let kept: String = span.content.chars().take(left).collect();
        left -= kept.chars().count();
        spans.push(Span::styled(kept, span.style));
    }
    spans.push(faint(if width > 0 { "…" } else { "" }));
    Line::from(spans)
}

// Colours only underline what words say as well.

pub fn plain(text: impl Into<String>) -> Span<'static> {
    Span::raw(text.into())
}

pub fn well(text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), Color::Green)
}

pub fn worse(text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), Color::Yellow)
}

pub fn bad(text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), Style::new().fg(Color::Red).add_modifier(Modifier::BOLD))
}

/// What is not known, or only explains.
pub fn faint(text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), Modifier::DIM)
}

const SPACE: &str = "  ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_says_so() {
        let line = || Line::from(vec![plain("ab"), well("cd")]);
        let text = |width| cut(line(), width).to_string();
        assert_eq!([text(4), text(3), text(2), text(1), text(0)], ["abcd", "ab…", "a…", "…", ""]);
    }

    #[test]
    fn the_least_important_column_is_left_out_first() {
        let columns = || {
            vec![
                Column::words("NAME", 0, [plain("a"), plain("longer")]),
                Column::numbers("N", 2, [plain("1"), plain("1000")]),
                Column::words("STATE", 1, [plain("well"), plain("↔")]),
            ]
        };
        let text = |width| {
            lines(columns(), width)
                .iter()
                .map(|line| line.to_string().trim_end().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(text(19), ["NAME       N  STATE", "a          1  well", "longer  1000  ↔"]);
        assert_eq!(text(18), ["NAME    STATE", "a       well", "longer  ↔"]);
        assert_eq!(text(0), ["NAME", "a", "longer"]);
    }
}

//! Lines at the end of a terminal that change in place, below everything else that is written there.
//!
//! The terminal stays what it is: no alternate screen, so that the text above can be read, selected and scrolled to;
//! no raw mode, so that Ctrl-C is a signal as always. It is not asked where its cursor is either, as a terminal that
//! does not answer would be waited for: all moves are relative to the cursor, which rests below the last line. Only
//! the echo of keys is off meanwhile, because an echoed Enter would move it.

use nix::libc::TIOCGWINSZ;
use nix::pty::Winsize;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};
use ratatui::text::Line;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd};

/// Takes its lines away and gives the keys their echo back when it is dropped.
pub struct Screen<W: Write + AsFd> {
    terminal: W,
    drawn: Drawn,
    colours: Colours,
    /// What the terminal was like, once that was changed.
    before: Option<Termios>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    Shown,
    /// Of emphasis only bold and dim remain.
    Hidden,
}

impl<W: Write + AsFd + IsTerminal> Screen<W> {
    /// None where lines cannot change in place.
    pub fn on(terminal: W) -> Option<Self> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let can_move = variable("TERM").is_some_and(|term| term != "dumb");
        let colours = if variable("NO_COLOR").is_some() { Colours::Hidden } else { Colours::Shown };
        (can_move && terminal.is_terminal()).then(|| Self::new(terminal, colours))
    }
}

impl<W: Write + AsFd> Screen<W> {
    pub fn new(terminal: W, colours: Colours) -> Self {
        Self { terminal, drawn: Drawn::default(), colours, before: None }
    }

    /// Columns and rows that lines may take.
    pub fn room(&self) -> (u16, u16) {
        let Size { columns, rows } = self.size();
        // The last column would make some terminals begin a new line, and the cursor needs one of its own.
        (columns.saturating_sub(1), rows.saturating_sub(1))
    }

    /// Shows these lines in place of those before.
    pub fn show(&mut self, lines: &[Line<'static>]) -> io::Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        self.silence_keys();
        let (columns, rows) = self.room();
        let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).min(rows);
        let mut next = Buffer::empty(Rect::new(0, 0, columns, height));
        for (line, y) in lines.iter().zip(0..height) {
            next.set_line(0, y, line, columns);
        }
        let bytes = self.drawn.replace(next, self.size(), self.colours);
        self.write(&bytes)
    }

    /// Writes text above the lines, where it stays.
    pub fn tell(&mut self, text: &str) -> io::Result<()> {
        if !self.is_ours() {
            return self.write(format!("{text}\n").as_bytes());
        }
        let bytes = self.drawn.above(text, self.size());
        self.write(&bytes)
    }

    pub fn erase(&mut self) -> io::Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        let bytes = self.drawn.erase(self.size());
        self.write(&bytes)
    }

    /// Once others have written to the terminal: what they wrote stays, and lines begin anew below.
    pub fn forget(&mut self) {
        self.drawn = Drawn::default();
    }

    fn is_ours(&self) -> bool {
        is_ours(&self.terminal)
    }

    fn silence_keys(&mut self) {
        let Ok(mut now) = tcgetattr(&self.terminal) else { return };
        if !now.local_flags.contains(LocalFlags::ECHO) {
            return;
        }
        self.before.get_or_insert_with(|| now.clone());
        now.local_flags.remove(LocalFlags::ECHO);
        // Without it keys are shown where they disturb, and everything else works.
        let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &now);
    }

    fn size(&self) -> Size {
        size(&self.terminal)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.terminal.write_all(bytes)?;
        self.terminal.flush()
    }
}

impl<W: Write + AsFd> Drop for Screen<W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What was said about that stands where the lines stood.
            self.forget();
        }
        // A terminal that is gone needs no cleaning.
        let _ = self.erase();
        if let Some(before) = self.before.take().filter(|_| self.is_ours()) {
            // Flushed, because keys that nobody saw must not become a command of the shell.
            let _ = tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &before);
        }
    }
}

/// A process in the background may neither change the terminal nor write over what others write.
pub fn is_ours(terminal: &impl AsFd) -> bool {
    // An error says that this is no terminal of our session, and then nobody shares it.
    tcgetpgrp(terminal).map_or(true, |group| group == getpgrp())
}

/// How large a terminal is now.
pub fn size(terminal: &impl AsFd) -> Size {
    let mut size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open, since it is borrowed, and the request writes one `winsize`, which is here.
    match unsafe { window_size(terminal.as_fd().as_raw_fd(), &raw mut size) } {
        Ok(_) if size.ws_col > 0 && size.ws_row > 0 => Size { columns: size.ws_col, rows: size.ws_row },
        // What a terminal has that does not say, such as a serial line.
        _ => Size { columns: 80, rows: 24 },
    }
}

nix::ioctl_read_bad!(window_size, TIOCGWINSZ, Winsize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

/// What stands on the terminal now, above the cursor.
#[derive(Debug, Default)]
struct Drawn {
    rows: Vec<Row>,
}

/// One line as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    bytes: String,
    width: u16,
}

impl Drawn {
    /// Only rows that changed are written, so that nothing flickers and a selection stays.
    fn replace(&mut self, next: Buffer, size: Size, colours: Colours) -> Vec<u8> {
        let next: Vec<Row> = (0..next.area.height).map(|y| Row::of(&next, y, colours)).collect();
        let mut bytes = String::from(BEGIN);
        let is_whole = self.rows.iter().all(|row| row.width < size.columns);
        if !is_whole || self.rows.len() >= usize::from(size.rows) {
            bytes += &self.to_top(size);
            bytes += CLEAR_BELOW;
            self.rows.clear();
        }
        bytes += &self.to_top(size);
        for (at, row) in next.iter().enumerate() {
            if self.rows.get(at) != Some(row) {
                bytes += &row.bytes;
                bytes += CLEAR_RIGHT;
            }
            bytes += "\r\n";
        }
        bytes += CLEAR_BELOW;
        bytes += END;
        self.rows = next;
        bytes.into_bytes()
    }

    fn above(&self, text: &str, size: Size) -> Vec<u8> {
        let text = text.replace('\n', "\r\n");
        let mut bytes = format!("{BEGIN}{}{CLEAR_BELOW}{text}\r\n", self.to_top(size));
        for row in &self.rows {
            bytes += &format!("{}\r\n", row.bytes);
        }
        bytes += END;
        bytes.into_bytes()
    }

    fn erase(&mut self, size: Size) -> Vec<u8> {
        let bytes =
            if self.rows.is_empty() { String::new() } else { format!("{}{CLEAR_BELOW}", self.to_top(size)) };
        self.rows.clear();
        bytes.into_bytes()
    }

    /// Terminals break lines anew when they become narrower, so a line may have become several.
    fn to_top(&self, size: Size) -> String {
        let heights = self.rows.iter().map(|row| row.width.div_ceil(size.columns.max(1)).max(1));
        let rows: u32 = heights.map(u32::from).sum();
        match rows.min(u32::from(size.rows).saturating_sub(1)) {
            0 => "\r".to_owned(),
            rows => format!("\r\x1b[{rows}A"),
        }
    }
}

impl Row {
    fn of(buffer: &Buffer, y: u16, colours: Colours) -> Self {
        let cells: Vec<_> = (0..buffer.area.width).map(|x| &buffer[(x, y)]).collect();
        let width = cells.iter().rposition(|cell| cell.symbol() != " ").map_or(0, |last| last + 1);
        let (mut bytes, mut style) = (String::new(), String::new());
        for cell in &cells[..width] {
            let wanted = selected(cell.fg, cell.modifier, colours);
            if wanted != style {
                bytes += &format!("\x1b[0{wanted}m");
                style = wanted;
            }
            bytes += cell.symbol();
        }
        if !style.is_empty() {
            bytes += "\x1b[0m";
        }
        Self { bytes, width: u16::try_from(width).unwrap_or(u16::MAX) }
    }
}

/// The parameters of "select graphic rendition" after a reset.
fn selected(colour: Color, modifier: Modifier, colours: Colours) -> String {
    let colour = match colour {
        _ if colours == Colours::Hidden => "",
        Color::Red => ";31",
        Color::Green => ";32",
        Color::Yellow => ";33",
        _ => "",
    };
    let bold = if modifier.contains(Modifier::BOLD) { ";1" } else { "" };
    let dim = if modifier.contains(Modifier::DIM) { ";2" } else { "" };
    format!("{bold}{dim}{colour}")
}

/// Terminals that know these show everything between them at once; the others pass over them.
const BEGIN: &str = "\x1b[?2026h\x1b[?25l";
const END: &str = "\x1b[?25h\x1b[?2026l";
const CLEAR_RIGHT: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::style::Style;

    const WIDE: Size = Size { columns: 20, rows: 10 };

    fn buffer(lines: &[&str]) -> Buffer {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 19, u16::try_from(lines.len()).unwrap()));
        for (y, line) in (0..).zip(lines) {
            buffer.set_string(0, y, line, Style::new());
        }
        buffer
    }

    fn replaced(drawn: &mut Drawn, lines: &[&str], size: Size) -> String {
        let bytes = String::from_utf8(drawn.replace(buffer(lines), size, Colours::Shown)).unwrap();
        bytes.strip_prefix(BEGIN).unwrap().strip_suffix(END).unwrap().replace('\x1b', "^")
    }

    #[test]
    fn only_lines_that_changed_are_written() {
        let mut drawn = Drawn::default();
        assert_eq!(replaced(&mut drawn, &["one", "two"], WIDE), "\rone^[K\r\ntwo^[K\r\n^[J");
        assert_eq!(replaced(&mut drawn, &["one", "2", "3"], WIDE), "\r^[2A\r\n2^[K\r\n3^[K\r\n^[J");
        assert_eq!(replaced(&mut drawn, &["one"], WIDE), "\r^[3A\r\n^[J");
    }

    #[test]
    fn what_is_told_stands_above_and_the_lines_follow() {
        let mut drawn = Drawn::default();
        replaced(&mut drawn, &["one"], WIDE);
        let bytes = String::from_utf8(drawn.above("a\nb", WIDE)).unwrap();
        assert_eq!(bytes, format!("{BEGIN}\r\x1b[1A\x1b[Ja\r\nb\r\none\r\n{END}"));
    }

    #[test]
    fn a_terminal_that_became_narrow_or_low_is_cleared_from_where_the_lines_begin() {
        let mut drawn = Drawn::default();
        replaced(&mut drawn, &["a line of 17 wide", "two"], WIDE);
        let narrow = Size { columns: 8, rows: 10 };
        assert!(replaced(&mut drawn, &["x"], narrow).starts_with("\r^[4A^[J\rx"), "three rows and one");
        replaced(&mut drawn, &["1", "2", "3", "4"], WIDE);
        let low = Size { columns: 20, rows: 3 };
        assert!(replaced(&mut drawn, &["x"], low).starts_with("\r^[2A^[J\rx"), "no higher than the screen");
    }

    #[test]
    fn without_colours_emphasis_is_bold_and_dim() {
        let mut buffer = buffer(&["ab"]);
        buffer.set_style(Rect::new(0, 0, 1, 1), Style::new().fg(Color::Red).add_modifier(Modifier::BOLD));
        assert_eq!(Row::of(&buffer, 0, Colours::Shown).bytes, "\x1b[0;1;31ma\x1b[0mb");
        assert_eq!(Row::of(&buffer, 0, Colours::Hidden).bytes, "\x1b[0;1ma\x1b[0mb");
    }
}

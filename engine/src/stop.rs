//! Ends an answer at a stop string, and holds back what may be the beginning of one.
//!
//! Tokens are held whole, because an event carries exactly the tokens whose text it releases. The stop string
//! and what follows it are never released; its tokens were generated all the same and travel with the end.

use crate::logprobs::TokenLogprobs;

/// Tokens and the text that they release.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Piece {
    pub ids: Vec<u32>,
    pub text: String,
    /// Of each token but one that ended the answer; empty where nobody asked.
    pub logprobs: Vec<TokenLogprobs>,
}

#[derive(Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    held: Vec<Piece>,
    /// The text of all held pieces.
    text: String,
    /// So many of the first held pieces went out before the answer moved here. They only count as what a stop string
    /// may begin with.
    gone: usize,
}

/// What a new piece leads to.
#[derive(Debug, PartialEq)]
pub enum Release {
    /// This may go out now; perhaps nothing.
    Go(Piece),
    /// A stop string was completed: this is the end of the answer.
    Stop(Piece),
}

impl StopStrings {
    /// None of the strings may be empty.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: Vec::new(), text: String::new(), gone: 0 }
    }

    pub fn push(&mut self, piece: Piece) -> Release {
        self.text.push_str(&piece.text);
        self.held.push(piece);
        if let Some(begin) = self.first_completed() {
            let gone: usize = self.held[..self.gone].iter().map(|piece| piece.text.len()).sum();
            let mut last = self.flush();
            last.text.truncate(begin.saturating_sub(gone));
            return Release::Stop(last);
        }
        let safe = self.text.len() - self.longest_beginning();
        let mut end = 0;
        let pieces = self.held.iter().take_while(|piece| {
            let fits = end + piece.text.len() <= safe;
            if fits {
                end += piece.text.len();
            }
            fits
        });
        let count = pieces.count();
        self.text.drain(..end);
        Release::Go(self.take(count))
    }

    /// The answer ended otherwise: what was held is part of it.
    pub fn flush(&mut self) -> Piece {
        self.text.clear();
        self.take(self.held.len())
    }

    /// All that is held is out already, where the answer was made before; returns its text. Nothing of it comes
    /// out again.
    pub fn all_gone(&mut self) -> &str {
        self.gone = self.held.len();
        &self.text
    }

    /// The first held pieces, without those that are out.
    fn take(&mut self, count: usize) -> Piece {
        let gone = self.gone.min(count);
        self.gone -= gone;
        self.held.drain(..count).skip(gone).reduce(Piece::followed_by).unwrap_or_default()
    }

    /// Where the stop string begins that is complete first; of several, the longest. So the answer does not
    /// depend on how its text was cut into tokens.
    fn first_completed(&self) -> Option<usize> {
        let places =
            self.stops.iter().filter_map(|stop| self.text.find(stop).map(|at| (at + stop.len(), at)));
        places.min().map(|(_, begin)| begin)
    }

    /// Length of the longest end of the text with which a stop string begins.
    fn longest_beginning(&self) -> usize {
        let text = self.text.as_bytes();
        let longest = |stop: &String| {
            let stop = stop.as_bytes();
            (1..stop.len()).rev().find(|length| text.ends_with(&stop[..*length])).unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

impl Piece {
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.text.is_empty()
    }

    #[must_use]
    pub fn followed_by(mut self, next: Self) -> Self {
        self.ids.extend(next.ids);
        self.text.push_str(&next.text);
        self.logprobs.extend(next.logprobs);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(id: u32, text: &str) -> Piece {
        Piece { ids: vec![id], text: text.to_owned(), ..Piece::default() }
    }

    #[test]
    fn whole_tokens_are_held_and_released_together() {
        let mut stop = StopStrings::new(vec!["lo wo".to_owned()]);
        assert_eq!(stop.push(piece(1, "hel")), Release::Go(Piece::default()));
        assert_eq!(stop.push(piece(2, "lo")), Release::Go(piece(1, "hel")));
        let both = piece(2, "lo").followed_by(piece(3, ", "));
        assert_eq!(stop.push(piece(3, ", ")), Release::Go(both));
        assert_eq!(stop.push(piece(4, "and")), Release::Go(piece(4, "and")));
        assert_eq!(stop.push(piece(5, "el lo w")), Release::Go(Piece::default()));
        let end = piece(5, "el ").followed_by(piece(6, ""));
        assert_eq!(stop.push(piece(6, "orld")), Release::Stop(end));
    }

    proptest! {
        #[test]
        fn the_text_up_to_the_first_stop_comes_out(
            pieces in prop::collection::vec("[abé]{0,3}", 0..20),
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
        ) {
            let whole = pieces.concat();
            let first = stops.iter().filter_map(|stop| whole.find(stop).map(|at| (at + stop.len(), at))).min();
            let wanted = first.map_or(whole.as_str(), |(_, begin)| &whole[..begin]);
            let mut stop = StopStrings::new(stops.clone());
            let mut out = Piece::default();
            let mut stopped = false;
            let mut pushed = 0;
            for (id, text) in pieces.iter().enumerate() {
                pushed += 1;
                match stop.push(piece(id as u32, text)) {
                    Release::Go(more) => {
                        out = out.followed_by(more);
                        let unreleased: String = pieces[out.ids.len()..pushed].concat();
                        prop_assert!(whole.starts_with(&(out.text.clone() + &unreleased)), "text without its token");
                    }
                    Release::Stop(last) => {
                        out = out.followed_by(last);
                        stopped = true;
                        break;
                    }
                }
            }
            if !stopped {
                out = out.followed_by(stop.flush());
            }
            prop_assert_eq!(stopped, first.is_some());
            prop_assert_eq!(&out.text, wanted);
            prop_assert_eq!(out.ids, (0..pushed as u32).collect::<Vec<_>>());
        }
    }
}

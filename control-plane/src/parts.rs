//! Cuts many resources into messages small enough to be sent while others wait.

use prost::Message;
use proto::v1;
use std::sync::Arc;
use std::vec::IntoIter;
use types::intent::Stored;

/// Converts only what is sent next, so that a large answer never stands in memory twice.
pub(crate) struct Parts {
    left: IntoIter<Arc<Stored>>,
    /// Did not fit into the part before.
    held: Option<v1::Stored>,
    is_done: bool,
}

/// At least one, with nothing in it where there is nothing.
pub(crate) struct Part {
    pub(crate) resources: Vec<v1::Stored>,
    pub(crate) is_last: bool,
}

impl Parts {
    pub(crate) fn of(resources: Vec<Arc<Stored>>) -> Self {
        Self { left: resources.into_iter(), held: None, is_done: false }
    }
}

impl Iterator for Parts {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        if self.is_done {
            return None;
        }
        let mut resources = Vec::new();
        let mut bytes = 0;
        while resources.len() < PART_RESOURCES_MAX {
            let next = self.held.take().or_else(|| Some(v1::Stored::from(self.left.next()?.as_ref())));
            let Some(next) = next else { break };
            bytes += next.encoded_len();
            if bytes > PART_BYTES_MAX && !resources.is_empty() {
                self.held = Some(next);
                break;
            }
            resources.push(next);
        }
        self.is_done = self.held.is_none() && self.left.len() == 0;
        Some(Part { resources, is_last: self.is_done })
    }
}

/// A subscriber on the far side of the world acknowledges one within a second, and 4,096 of them fit into memory.
pub(crate) const PART_BYTES_MAX: usize = 256 * 1024;
pub(crate) const PART_RESOURCES_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use types::UnixMs;
    use types::intent::{Resource, Revision, Version};

    fn versions(count: u8, source_bytes: usize) -> Vec<Arc<Stored>> {
        let version = |number: u8| Version {
            version: format!("sha256:{}", format!("{number:02x}").repeat(32)).parse().unwrap(),
            model: "m".parse().unwrap(),
            source: "x".repeat(source_bytes),
        };
        let stored = |number| Stored {
            resource: Resource::Version(version(number)),
            revision: Revision(1),
            created_unix_ms: UnixMs(0),
        };
        (0..count).map(|number| Arc::new(stored(number))).collect()
    }

    #[test]
    fn parts_are_small_and_lose_nothing() {
        for (count, source_bytes, expected) in
            [(0, 0, vec![0]), (3, 10, vec![3]), (5, 100_000, vec![2, 2, 1]), (2, 300_000, vec![1, 1])]
        {
            let parts: Vec<Part> = Parts::of(versions(count, source_bytes)).collect();
            let sizes: Vec<usize> = parts.iter().map(|part| part.resources.len()).collect();
            assert_eq!(sizes, expected);
            assert_eq!(parts.iter().position(|part| part.is_last), Some(parts.len() - 1));
        }
        let many = versions(1, 1).into_iter().cycle().take(2 * PART_RESOURCES_MAX).collect();
        let sizes: Vec<usize> = Parts::of(many).map(|part| part.resources.len()).collect();
        assert_eq!(sizes, [PART_RESOURCES_MAX, PART_RESOURCES_MAX], "no empty one at the end");
    }
}

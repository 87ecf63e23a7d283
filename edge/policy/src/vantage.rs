//! Whether a region is dead for the world, or only out of one region's sight.
//!
//! An edge routes around what it cannot reach at once, alone, and for itself. To move the world's traffic, by DNS or
//! by promoting what stands by, takes the word of others: one region with a broken link sees all the rest dead.

use std::collections::BTreeMap;
use std::time::Duration;
use types::RegionName;

/// What one region says of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub reaches: bool,
    pub age: Duration,
}

/// Whether a region is dead by the word of most of the other ones. What a region says of itself does not count, nor
/// what was said long ago; who says nothing is counted as one who disagrees.
pub fn is_dead(region: &RegionName, regions: &[RegionName], views: &BTreeMap<RegionName, View>) -> bool {
    let others = || regions.iter().filter(|other| *other != region);
    // Of two and more that is at least two, as one voice may be one broken link. Of one, nobody else can be asked.
    let needed = others().count() / 2 + 1;
    let says_dead =
        |other: &&RegionName| views.get(*other).is_some_and(|view| !view.reaches && view.age <= VIEW_AGE_MAX);
    others().filter(says_dead).count() >= needed
}

/// Five reports at one a second; an older view is of another world.
const VIEW_AGE_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> RegionName {
        name.parse().unwrap()
    }

    /// `views`: who says what of `a`: `x` dead, `o` alive, `.` nothing, `-` dead, but long ago.
    fn dead(regions: usize, views: &str) -> bool {
        let names: Vec<RegionName> =
            ["a", "b", "c", "d", "e"][..regions].iter().map(|name| region(name)).collect();
        let view = |mark| match mark {
            'x' => Some(View { reaches: false, age: Duration::from_secs(1) }),
            'o' => Some(View { reaches: true, age: Duration::from_secs(1) }),
            '-' => Some(View { reaches: false, age: Duration::from_secs(6) }),
            _ => None,
        };
        let views = names
            .iter()
            .zip(views.chars())
            .filter_map(|(name, mark)| Some((name.clone(), view(mark)?)))
            .collect();
        is_dead(&region("a"), &names, &views)
    }

    #[test]
    fn one_broken_link_kills_no_region_for_the_world() {
        for (regions, views, expected) in [
            (1, "x", false),
            (2, "ox", true),
            (2, "xo", false),
            (3, ".xo", false),
            (3, ".x.", false),
            (3, ".xx", true),
            (3, ".x-", false),
            (3, "xx.", false),
            (4, ".xxo", true),
            (4, ".xoo", false),
            (5, ".xxoo", false),
            (5, ".xxxo", true),
        ] {
            assert_eq!(dead(regions, views), expected, "{regions} regions, {views}");
        }
    }
}

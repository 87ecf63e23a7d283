//! Where regions lie on the map: known names at the data centres that people expect, others anywhere, but always
//! at the same place.

use types::{Place, RegionName};

/// The place of a region. `us-east-1` lies where `us-east` does.
pub fn of(region: &RegionName) -> Place {
    known(region).unwrap_or_else(|| anywhere(region.as_str()))
}

/// None for a name that says nothing of a place.
pub fn known(region: &RegionName) -> Option<Place> {
    let name = region.as_str();
    let is_known =
        |known: &str| name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    let (_, latitude, longitude) = KNOWN.iter().find(|(known, ..)| is_known(known))?;
    Some(Place { latitude: *latitude, longitude: *longitude })
}

/// Drawn from the name, so that a region does not move between two starts.
fn anywhere(name: &str) -> Place {
    let hash = blake3::hash(name.as_bytes());
    let [a, b, c, d, ..] = *hash.as_bytes();
    let share = |high, low| f64::from(u16::from_be_bytes([high, low])) / f64::from(u16::MAX);
    let (south, north) = INHABITED_LATITUDES;
    // Two digits are a kilometre; more would only look exact.
    let degrees = |value: f64| (value * 100.0).round() / 100.0;
    Place {
        latitude: degrees(south + (north - south) * share(a, b)),
        longitude: degrees(-180.0 + 360.0 * share(c, d)),
    }
}

/// Nobody builds a data centre at the poles.
const INHABITED_LATITUDES: (f64, f64) = (-45.0, 65.0);

/// For whoever says how many regions he wants and not which: as far apart as the first few can be.
pub const NAMES: [&str; 16] = [
    "us-east",
    "eu-west",
    "ap-south",
    "us-west",
    "sa-east",
    "ap-northeast",
    "eu-central",
    "au-east",
    "af-south",
    "ap-southeast",
    "us-central",
    "me-central",
    "eu-north",
    "ca-central",
    "ap-east",
    "eu-south",
];

/// Names as the large clouds use them, at the cities that hold their data centres.
const KNOWN: [(&str, f64, f64); 16] = [
    ("us-east", 39.04, -77.49),
    ("us-central", 41.26, -95.86),
    ("us-west", 45.84, -119.70),
    ("ca-central", 45.50, -73.57),
    ("sa-east", -23.55, -46.63),
    ("eu-west", 53.35, -6.26),
    ("eu-central", 50.11, 8.68),
    ("eu-north", 59.33, 18.07),
    ("eu-south", 45.46, 9.19),
    ("me-central", 25.20, 55.27),
    ("af-south", -33.92, 18.42),
    ("ap-south", 19.08, 72.88),
    ("ap-southeast", 1.35, 103.82),
    ("ap-east", 22.32, 114.17),
    ("ap-northeast", 35.68, 139.69),
    ("au-east", -33.87, 151.21),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Place {
        of(&name.parse().unwrap())
    }

    #[test]
    fn a_region_stays_where_it_is() {
        for name in ["us-east", "mars", "x"] {
            assert_eq!(place(name), place(name));
            assert!(place(name).is_on_earth(), "{name}");
        }
        assert_ne!(place("mars"), place("venus"));
    }

    #[test]
    fn a_numbered_region_lies_where_its_family_does() {
        assert_eq!(place("us-east-1"), place("us-east"));
        assert_ne!(place("us-eastern"), place("us-east"));
        assert_ne!(place("ap-southeast"), place("ap-south"));
    }

    #[test]
    fn every_known_place_is_on_earth_and_can_be_counted() {
        for (name, ..) in KNOWN {
            assert!(place(name).is_on_earth(), "{name}");
        }
        let mut known = KNOWN.map(|(name, ..)| name);
        let mut names = NAMES;
        known.sort_unstable();
        names.sort_unstable();
        assert_eq!(known, names);
    }
}

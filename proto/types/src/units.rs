//! Quantities and small closed sets.

use std::fmt;
use std::str::FromStr;

/// What yields first when there is too little room: batch, then standard, then interactive.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Batch,
    #[default]
    Standard,
    Interactive,
}

impl Priority {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Standard => "standard",
            Self::Interactive => "interactive",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Priority {
    type Err = BadPriority;

    fn from_str(text: &str) -> Result<Self, BadPriority> {
        [Self::Batch, Self::Standard, Self::Interactive]
            .into_iter()
            .find(|priority| priority.as_str() == text)
            .ok_or(BadPriority)
    }
}

/// A text that names no class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a priority is batch, standard or interactive")]
pub struct BadPriority;

/// A place on the map, in degrees.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub latitude: f64,
    pub longitude: f64,
}

impl Place {
    pub fn is_on_earth(self) -> bool {
        (-90.0..=90.0).contains(&self.latitude) && (-180.0..=180.0).contains(&self.longitude)
    }

    /// Great-circle distance (haversine) on a sphere of Earth's mean radius.
    pub fn kilometres_to(self, other: Self) -> f64 {
        let half_chord = |from: f64, to: f64| ((to - from).to_radians() / 2.0).sin().powi(2);
        let (from, to) = (self.latitude.to_radians(), other.latitude.to_radians());
        let chord = half_chord(self.latitude, other.latitude)
            + from.cos() * to.cos() * half_chord(self.longitude, other.longitude);
        2.0 * EARTH_RADIUS_KM * chord.sqrt().min(1.0).asin()
    }
}

/// Mean radius, IUGG.
const EARTH_RADIUS_KM: f64 = 6371.0088;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_of_two_cities() {
        let dublin = Place { latitude: 53.35, longitude: -6.26 };
        let ashburn = Place { latitude: 39.04, longitude: -77.49 };
        let km = dublin.kilometres_to(ashburn);
        assert!((5400.0..5500.0).contains(&km), "{km}");
        assert_eq!(dublin.kilometres_to(dublin), 0.0);
    }
}

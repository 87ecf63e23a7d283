//! Fields of OpenAI or vLLM that this engine has nothing for: whether they ask for anything at all.

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// What a field says that this engine has nothing for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Foreign {
    /// Absent, `null`, `false`, zero or empty: the answer is the same without it.
    #[default]
    Neutral,
    /// `"none"` or `"auto"`. Without tools both mean that none is called.
    NoTool,
    Something,
}

impl<'de> Deserialize<'de> for Foreign {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Anything;
        impl<'de> Visitor<'de> for Anything {
            type Value = Foreign;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Foreign, E> {
                Ok(Foreign::Neutral)
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Foreign, E> {
                Ok(Foreign::unless(!value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Foreign, E> {
                Ok(Foreign::unless(value == 0))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Foreign, E> {
                Ok(Foreign::unless(value == 0))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Foreign, E> {
                Ok(Foreign::unless(value == 0.0))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Foreign, E> {
                Ok(match text {
                    "none" | "auto" => Foreign::NoTool,
                    text => Foreign::unless(text.is_empty()),
                })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Foreign, A::Error> {
                let mut found = Foreign::Neutral;
                while list.next_element::<de::IgnoredAny>()?.is_some() {
                    found = Foreign::Something;
                }
                Ok(found)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Foreign, A::Error> {
                let mut found = Foreign::Neutral;
                while map.next_entry::<de::IgnoredAny, de::IgnoredAny>()?.is_some() {
                    found = Foreign::Something;
                }
                Ok(found)
            }
        }
        from.deserialize_any(Anything)
    }
}

impl Foreign {
    fn unless(neutral: bool) -> Self {
        if neutral { Self::Neutral } else { Self::Something }
    }
}

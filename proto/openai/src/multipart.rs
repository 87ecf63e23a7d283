//! One field of a form with files, found without copying or understanding the rest.
//!
//! Strict where lenient parsers differ from one another: whoever reads the form next must find the same field.

use crate::error::BadRequest;
use memchr::memmem;

/// Whether a body of this type is a form with files.
pub fn is_form(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("multipart/form-data")
}

/// The value of a field; `None` if the form has none of that name.
pub fn field<'a>(content_type: &str, body: &'a [u8], name: &str) -> Result<Option<&'a str>, BadRequest> {
    let delimiter = format!("\r\n--{}", boundary(content_type).ok_or_else(|| broken("it has no boundary"))?);
    let delimiter = delimiter.as_bytes();
    // The first one needs no line before it.
    let mut rest =
        body.strip_prefix(&delimiter[2..]).ok_or_else(|| broken("it does not begin with its boundary"))?;
    let (mut found, mut parts) = (None, 0);
    let end = memmem::Finder::new(delimiter);
    loop {
        if rest.starts_with(b"--") {
            return Ok(found);
        }
        parts += 1;
        if parts > PARTS_MAX {
            return Err(broken("it has too many parts"));
        }
        let part = rest.strip_prefix(b"\r\n").ok_or_else(|| broken("a boundary's line does not end"))?;
        let content_end = end.find(part).ok_or_else(|| broken("a part does not end"))?;
        rest = &part[content_end + delimiter.len()..];
        let part = &part[..content_end];
        let head = &part[..part.len().min(PART_HEAD_BYTES_MAX)];
        let head_end = memmem::find(head, b"\r\n\r\n").ok_or_else(|| broken("a part has no head"))?;
        if name_of(&head[..head_end])? != Some(name) {
            continue;
        }
        let value = &part[head_end + 4..];
        if value.len() > VALUE_BYTES_MAX {
            return Err(broken("a field is too long"));
        }
        let value = std::str::from_utf8(value).map_err(|_| broken("a field is no text"))?;
        if found.replace(value).is_some() {
            return Err(broken("a field is there twice"));
        }
    }
}

fn boundary(content_type: &str) -> Option<&str> {
    let mut found = None;
    for parameter in content_type.split(';').skip(1) {
        let (name, value) = parameter.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("boundary") && found.replace(unquoted(value.trim())).is_some() {
            return None;
        }
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
    found.filter(|text| (1..=BOUNDARY_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed))
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// The field's name in a part's head.
fn name_of(head: &[u8]) -> Result<Option<&str>, BadRequest> {
    let head = std::str::from_utf8(head).map_err(|_| broken("a part's head is no text"))?;
    let mut dispositions = head.split("\r\n").filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    });
    let (Some(disposition), None) = (dispositions.next(), dispositions.next()) else {
        return Err(broken("a part has not one content-disposition"));
    };
    let mut name = None;
    let mut rest = disposition;
    while let Some((_, parameters)) = rest.split_once(';') {
        let Some((key, value)) = parameters.split_once('=') else { break };
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => {
                quoted.split_at(end_of_quoted(quoted).ok_or_else(|| broken("a name does not end"))?)
            }
            None => value.split_at(value.find(';').unwrap_or(value.len())),
        };
        rest = after;
        match key.trim().to_ascii_lowercase().as_str() {
            "name" if name.replace(value).is_some() => return Err(broken("a part has two names")),
            // Another spelling of the same, which some read and some do not.
            "name*" => return Err(broken("a name is encoded")),
            _ => {}
        }
    }
    Ok(name)
}

fn end_of_quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

fn broken(reason: &'static str) -> BadRequest {
    BadRequest::NotForm { reason }
}

/// RFC 2046.
const BOUNDARY_BYTES_MAX: usize = 70;
/// A name, a file's name and a type.
const PART_HEAD_BYTES_MAX: usize = 8 << 10;
/// The longest name of a model, many times over.
const VALUE_BYTES_MAX: usize = 1024;
/// Fields and images of any honest form.
const PARTS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=xYz";

    fn form(parts: &[(&str, &str)]) -> String {
        let parts = parts.iter().map(|(head, value)| format!("--xYz\r\n{head}\r\n\r\n{value}\r\n"));
        format!("{}--xYz--\r\n", parts.collect::<String>())
    }

    fn model(form: &str) -> Result<Option<&str>, BadRequest> {
        field(TYPE, form.as_bytes(), "model")
    }

    const FILE: (&str, &str) = (
        "Content-Disposition: form-data; name=\"file\"; filename=\"a \\\"; name=\\\"model.wav\"\r\nContent-Type: audio/wav",
        "\r\n--xY\r\n\r\nname=\"model\"\r\n\0\r\n",
    );
    const MODEL: (&str, &str) = ("content-disposition: form-data; name=\"model\"", "whisper");

    #[test]
    fn a_field_is_found_before_and_after_a_file() {
        assert_eq!(model(&form(&[FILE, MODEL])).unwrap(), Some("whisper"));
        assert_eq!(model(&form(&[MODEL, FILE])).unwrap(), Some("whisper"));
        assert_eq!(model(&form(&[FILE])).unwrap(), None);
        assert_eq!(model(&form(&[("Content-Disposition: form-data; name=model", "m")])).unwrap(), Some("m"));
        let whole = form(&[MODEL]);
        let quoted = field("Multipart/Form-Data; charset=x; boundary=\"xYz\"", whole.as_bytes(), "model");
        assert_eq!(quoted.unwrap(), Some("whisper"));
    }

    #[test]
    fn a_form_that_could_be_read_in_two_ways_is_refused() {
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        for parts in [
            &[MODEL, MODEL][..],
            &[("Content-Disposition: form-data; name=\"model\"; name=\"x\"", "m")],
            &[("Content-Disposition: form-data; name*=utf-8''model", "m")],
            &[(
                "Content-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"model\"",
                "m",
            )],
            &[("Content-Type: text/plain", "m")],
            &[("Content-Disposition: form-data; name=\"model", "m")],
            &[(MODEL.0, &long)],
            &[MODEL; PARTS_MAX + 1],
        ] {
            assert!(model(&form(parts)).is_err(), "{:?}", &parts[0]);
        }
        let whole = form(&[MODEL]);
        for cut in 0..whole.len() - 4 {
            assert!(model(&whole[..cut]).is_err(), "cut at {cut}");
        }
        assert!(model(&format!("preamble\r\n{whole}")).is_err());
        for kind in
            ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=x\u{1}"]
        {
            assert!(field(kind, whole.as_bytes(), "model").is_err(), "{kind}");
        }
    }
}

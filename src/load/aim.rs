//! Where a run's requests go, and as whom: a sandbox, or any server by its URL.

use crate::cli::DATA_DEFAULT;
use crate::failure::WrongUsage;
use crate::load::target::{self, Target};
use crate::sandbox::control::{self, Question};
use crate::sandbox::report::Report as Sandbox;
use crate::sandbox::{self, kept_layout};
use anyhow::Context;
use clap::Args;
use http::HeaderValue;
use std::path::{Path, PathBuf};
use types::RegionName;

/// What was typed of it.
#[derive(Debug, Args)]
pub struct Destination {
    /// Send to the edges of these regions of the sandbox, by chance and evenly [default: to its one address]
    #[arg(long = "region", value_name = "NAMES", value_delimiter = ',', help_heading = TARGET)]
    regions: Vec<RegionName>,
    /// Where the sandbox keeps its state and logs [default: .rhumb]
    #[arg(long, value_name = "DIR", help_heading = TARGET)]
    data: Option<PathBuf>,
    /// Send to any OpenAI-compatible server instead, by its base URL
    #[arg(long, value_name = "URL", conflicts_with_all = ["regions", "data"], requires = "model")]
    #[arg(help_heading = TARGET)]
    pub url: Option<String>,
    /// The API key [default: the sandbox's; with --url that of the environment's RHUMB_KEY, which no process list
    /// shows]
    #[arg(long, value_name = "KEY", help_heading = TARGET)]
    key: Option<String>,
    /// The model to ask [default: the sandbox's]
    #[arg(long, value_name = "NAME", help_heading = TARGET)]
    model: Option<String>,
    /// Trust the certificate authorities of this PEM file instead of this host's
    #[arg(long, value_name = "FILE", requires = "url", help_heading = TARGET)]
    cacert: Option<PathBuf>,
}

/// Where requests go, and as whom.
pub struct Aim {
    pub targets: Vec<Target>,
    /// `Bearer …`; none for a server that asks for no key.
    pub authorization: Option<HeaderValue>,
    pub model: String,
    /// For people.
    pub place: String,
}

impl Destination {
    pub fn aim(&self) -> anyhow::Result<Aim> {
        match &self.url {
            Some(url) => self.aim_at_url(url),
            None => self.aim_at_sandbox(),
        }
    }

    fn aim_at_url(&self, url: &str) -> anyhow::Result<Aim> {
        let target = Target::new(url, None, || target::trust(self.cacert.as_deref()));
        let target = target.map_err(|error| match error.downcast::<target::UrlError>() {
            Ok(bad) => WrongUsage(bad.to_string()).into(),
            Err(error) => error.context("no server can be trusted"),
        })?;
        if self.cacert.is_some() && !target.is_tls() {
            let problem = format!("`--cacert` says whom to trust by TLS, and {url} has none; use https://");
            return Err(WrongUsage(problem).into());
        }
        let key = self.key.clone().or_else(|| std::env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty()));
        let model = self.model.clone().context("a URL needs the name of a model: `--model`")?;
        let authorization = key.as_deref().map(authorization).transpose()?;
        Ok(Aim { targets: vec![target], authorization, model, place: url.to_owned() })
    }

    fn aim_at_sandbox(&self) -> anyhow::Result<Aim> {
        let paths = sandbox::existing(self.data.as_deref().unwrap_or(Path::new(DATA_DEFAULT)))?;
        let layout = kept_layout(&paths)?;
        // Its addresses may be another sandbox's by now, unless it runs.
        control::ask(&paths, &Question::Processes)?;
        let sandbox = Sandbox::new(&layout, &paths, &sandbox::write::api_key(&paths)?);
        let no_tls = || Err(target::TrustError::NoSystemRoots);
        let mut targets = Vec::new();
        for (at, name) in self.regions.iter().enumerate() {
            if self.regions[..at].contains(name) {
                return Err(WrongUsage(format!("region {name} is named twice")).into());
            }
            let region = sandbox.regions.iter().find(|region| region.name == *name).ok_or_else(|| {
                WrongUsage(format!("there is no region {name}; this sandbox has {}", layout.regions))
            })?;
            targets.push(Target::new(&region.edge, Some(name.to_string()), no_tls)?);
        }
        let place = match targets.is_empty() {
            true => {
                targets.push(Target::new(&sandbox.endpoint, None, no_tls)?);
                sandbox.endpoint
            }
            false => {
                let names: Vec<&str> = self.regions.iter().map(RegionName::as_str).collect();
                format!("the edges of {}", names.join(", "))
            }
        };
        Ok(Aim {
            targets,
            authorization: Some(authorization(self.key.as_ref().unwrap_or(&sandbox.api_key))?),
            model: self.model.clone().unwrap_or(sandbox.model),
            place,
        })
    }
}

fn authorization(key: &str) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {key}"))
        .map_err(|_| WrongUsage("an API key is plain text in one line".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

const TARGET: &str = "Target";
const KEY_VARIABLE: &str = "RHUMB_KEY";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_for_a_url_without_tls_are_wrong_usage() {
        let destination = Destination {
            regions: Vec::new(),
            data: None,
            url: Some("http://127.0.0.1:1/v1".to_owned()),
            key: None,
            model: Some("m".to_owned()),
            cacert: Some(PathBuf::from("ca.pem")),
        };
        let error = destination.aim().err().unwrap();
        assert!(error.is::<WrongUsage>() && error.to_string().contains("--cacert"), "{error}");
    }

    #[test]
    fn a_key_with_a_line_break_is_refused() {
        assert!(authorization("rk_a\r\nx: y").is_err());
        assert!(authorization("rk_a").is_ok());
    }
}

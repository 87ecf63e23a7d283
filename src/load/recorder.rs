//! Writes `--record`: a line for each request, as they end.

use crate::load::record::Line;
use anyhow::Context;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// One line for each request.
pub struct Recorder {
    path: PathBuf,
    file: BufWriter<File>,
    /// What kept it from being written. The run goes on, because its numbers cannot be had again.
    failed: Option<io::Error>,
}

impl Recorder {
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file), failed: None })
    }

    pub fn write(&mut self, line: &Line<'_>) {
        if self.failed.is_some() {
            return;
        }
        let mut text = serde_json::to_vec(line).expect("plain data serialises");
        text.push(b'\n');
        self.failed = self.file.write_all(&text).err();
    }

    pub fn end(mut self) -> anyhow::Result<()> {
        let written = self.failed.map_or_else(|| self.file.flush(), Err);
        written.with_context(|| format!("{} is not whole", self.path.display()))
    }
}

//! How far the local cloud's clock was moved, kept in its data folder: a clock that fell back on a restart would book entries
//! on days that are sealed.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use chrono::TimeDelta;

/// What was kept; zero if nothing was.
pub fn read(path: &Path) -> io::Result<TimeDelta> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(TimeDelta::zero()),
        Err(error) => return Err(error),
    };
    let ms = text.trim().parse::<i64>().ok().filter(|ms| *ms >= 0);
    ms.and_then(TimeDelta::try_milliseconds)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a number of milliseconds"))
}

/// Keeps it: all of it or, if the process dies meanwhile, what was kept before.
pub fn write(path: &Path, shift: TimeDelta) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    writeln!(file, "{}", shift.num_milliseconds())?;
    file.sync_all()?;
    fs::rename(new, path)
}

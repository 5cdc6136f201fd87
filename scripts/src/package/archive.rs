//! The folder and the zip of a package: the executable bit set whatever machine wrote them, and the same bytes every time.

use std::io::{Cursor, Write};
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

pub(super) struct File {
    pub(super) name: &'static str,
    pub(super) mode: u32,
    pub(super) bytes: Vec<u8>,
}

pub(super) struct Zip {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Replaces a folder of an earlier run.
pub(super) fn write_folder(folder: &Path, files: &[File]) -> Result<()> {
    let written = || -> std::io::Result<()> {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        std::fs::create_dir_all(folder)?;
        for file in files {
            let path = folder.join(file.name);
            std::fs::write(&path, &file.bytes)?;
            #[cfg(unix)]
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(file.mode))?;
        }
        Ok(())
    };
    written().with_context(|| format!("writing {}", folder.display()))
}

pub(super) fn write_zip(path: &Path, files: &[File]) -> Result<Zip> {
    let bytes = zip_of(files)?;
    std::fs::write(path, &bytes).with_context(|| format!("writing {}", path.display()))?;
    let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Zip { bytes: u64::try_from(bytes.len())?, sha256 })
}

fn zip_of(files: &[File]) -> Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    // The earliest time that the format knows, so that the time of packaging makes no difference.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(9))
        .last_modified_time(DateTime::default());
    for file in files {
        zip.start_file(file.name, options.unix_permissions(file.mode))?;
        zip.write_all(&file.bytes)?;
    }
    Ok(zip.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> [File; 2] {
        [
            File { name: "main", mode: 0o755, bytes: vec![7; 100_000] },
            File { name: "index.js", mode: 0o644, bytes: b"'use strict';\n".to_vec() },
        ]
    }

    #[test]
    fn the_same_files_make_the_same_zip_with_their_modes() {
        let (one, two) = (zip_of(&files()).unwrap(), zip_of(&files()).unwrap());
        assert_eq!(one, two);
        assert!(one.len() < 10_000);
        let mut zip = zip::ZipArchive::new(Cursor::new(one)).unwrap();
        for file in files() {
            let entry = zip.by_name(file.name).unwrap();
            assert_eq!(entry.unix_mode().map(|mode| mode & 0o777), Some(file.mode));
            assert_eq!(entry.size(), u64::try_from(file.bytes.len()).unwrap());
        }
    }

    #[test]
    fn a_folder_of_an_earlier_run_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        write_folder(&folder, &files()).unwrap();
        std::fs::write(folder.join("old"), "x").unwrap();
        write_folder(&folder, &files()).unwrap();
        assert!(!folder.join("old").exists());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(folder.join("main")).unwrap().permissions().mode() & 0o777, 0o755);
        }
    }
}

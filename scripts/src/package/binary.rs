//! Whether a binary runs on the platform: x86-64 of any age, and no younger C library than it has.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use object::elf::{FileHeader64, GNU_PROPERTY_X86_ISA_1_NEEDED};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{LittleEndian, elf};

/// The platform's oldest: CentOS 7 (CloudBase's page on start-up files).
const GLIBC_MAX: Version = Version(2, 17);
/// x86-64 (1) and x86-64-v2 (2), of the bits of `GNU_PROPERTY_X86_ISA_1_NEEDED`.
const ISA_MAX: u32 = 0b11;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32);

impl Version {
    /// Of the name of a symbol version, such as `GLIBC_2.17`.
    fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("GLIBC_")?.split('.');
        Some(Self(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// What a binary needs of the machine that runs it.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) bytes: u64,
    pub(super) libc: Libc,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Libc {
    /// Linked in.
    Static,
    /// The platform's, of this version at least.
    Glibc(Version),
}

impl fmt::Display for Libc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static => f.write_str("static"),
            Self::Glibc(Version(major, minor)) => write!(f, "glibc {major}.{minor}"),
        }
    }
}

/// Fails where the platform could not run it, and says why.
pub(super) fn inspect(bytes: &[u8]) -> Result<Report> {
    let libc = libc_of(bytes)?;
    if let Libc::Glibc(version) = libc {
        ensure!(version <= GLIBC_MAX, "it needs {libc}, and the platform may have no more than glibc 2.17");
    }
    Ok(Report { bytes: u64::try_from(bytes.len())?, libc })
}

fn libc_of(bytes: &[u8]) -> Result<Libc> {
    let header = FileHeader64::<LittleEndian>::parse(bytes).context("it is no 64-bit ELF file")?;
    let endian = header.endian()?;
    ensure!(header.e_machine(endian) == elf::EM_X86_64, "it is not for x86-64");
    let sections = header.sections(endian, bytes)?;
    for section in sections.iter() {
        let Some(mut notes) = section.notes(endian, bytes)? else { continue };
        while let Some(note) = notes.next()? {
            let Some(mut properties) = note.gnu_properties(endian) else { continue };
            while let Some(property) = properties.next()? {
                let needed = property.data_u32(endian).unwrap_or(0);
                if property.pr_type() == GNU_PROPERTY_X86_ISA_1_NEEDED && needed & !ISA_MAX != 0 {
                    bail!("it needs a newer processor than x86-64-v2");
                }
            }
        }
    }
    let interpreted = header.program_headers(endian, bytes)?.iter().any(|p| p.p_type(endian) == elf::PT_INTERP);
    if !interpreted {
        return Ok(Libc::Static);
    }
    let mut newest = None;
    if let Some((mut needs, strings)) = sections.gnu_verneed(endian, bytes)? {
        let strings = sections.strings(endian, bytes, strings)?;
        while let Some((_, mut versions)) = needs.next()? {
            while let Some(version) = versions.next()? {
                let name = String::from_utf8_lossy(version.name(endian, strings)?);
                newest = newest.max(Version::of(&name));
            }
        }
    }
    Ok(Libc::Glibc(newest.context("it is linked with a C library that is not glibc")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(Version::of("GLIBC_2.9") < Version::of("GLIBC_2.17"));
        assert_eq!(Version::of("GLIBC_2.2.5"), Some(Version(2, 2)));
        assert_eq!(Version::of("GCC_3.0"), None);
    }

    #[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
    #[test]
    fn a_binary_of_this_machine_tells_its_glibc() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let Libc::Glibc(version) = libc_of(&own).unwrap() else { panic!("tests are linked with glibc here") };
        assert!(version > GLIBC_MAX, "{version:?}");
        assert!(inspect(&own).unwrap_err().to_string().contains("2.17"));
    }

    #[test]
    fn what_is_no_binary_is_refused() {
        assert!(inspect(b"#!/bin/sh\n").is_err());
        let mut arm = vec![0u8; 64];
        arm[..6].copy_from_slice(b"\x7fELF\x02\x01");
        arm[18] = 183;
        assert!(inspect(&arm).is_err());
    }
}

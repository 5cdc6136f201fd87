//! `jinlu package`

mod archive;
mod binary;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use edge::Function;
use serde::Deserialize;

use crate::cli::say;
use archive::File;
use binary::Report;

const SHIM: &str = include_str!("../../shared/edge/shim/index.js");
/// The platform starts it; it has to listen on 0.0.0.0:9000.
const BOOTSTRAP: &str = "#!/bin/bash\ncd \"$(dirname \"$0\")\" || exit 1\nexport PORT=9000\nexec ./main\n";
const MUSL: &str = "x86_64-unknown-linux-musl";
/// Where cargo-zigbuild puts what it builds for `x86_64-unknown-linux-gnu.2.17`.
const GNU: &str = "x86_64-unknown-linux-gnu";
/// CloudBase's deployment tool warns beyond this.
const BYTES_WARN: u64 = 10_000_000;
const BYTES_MAX: u64 = 50_000_000;

/// 打包云函数 · Build the functions and write the folders and zips that CloudBase deploys
///
/// 每个函数一个文件夹和一个 zip：HTTP 函数为 scf_bootstrap 与程序，事件函数为 index.js 与程序。同样的源码得到同样的字节。
/// A folder and a zip per function: scf_bootstrap and the binary for HTTP functions, index.js and the binary for event
/// functions. The same sources give the same bytes. Run it in the project's folder.
///
/// Examples:
///   jinlu package                               all functions, each as cloudbaserc.json wants it, to target/package
///   jinlu package submitOrder wxPay             two of them
///   jinlu package --flavour event submitOrder   as an event function, for wx.cloud.callFunction
///   jinlu package --libc gnu                    with cargo-zigbuild for glibc 2.17, where there is no musl-gcc
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// 函数名，默认全部 · Functions; without any all of them
    #[arg(value_name = "FUNCTION")]
    functions: Vec<String>,
    /// 形式，默认按 cloudbaserc.json · The flavour; without it that of cloudbaserc.json
    #[arg(long, value_enum)]
    flavour: Option<Flavour>,
    /// 输出目录 · The folder to write to
    #[arg(long, value_name = "DIR", default_value = "target/package")]
    out: PathBuf,
    /// 使用的 C 库，默认 musl · The C library; musl is linked in, gnu is the platform's and needs cargo-zigbuild
    #[arg(long, value_enum, default_value_t = Libc::Musl)]
    libc: Libc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Flavour {
    Http,
    Event,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Libc {
    Musl,
    Gnu,
}

/// As much of cloudbaserc.json as matters here.
#[derive(Deserialize)]
struct Deployment {
    functions: Vec<Deployed>,
}

#[derive(Deserialize)]
struct Deployed {
    name: String,
    r#type: String,
}

/// One function to package.
struct Parcel {
    function: &'static str,
    /// Its crate and binary.
    krate: String,
    flavour: Flavour,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let deployment = std::fs::read_to_string("cloudbaserc.json")
        .context("there is no cloudbaserc.json here: run this in the project's folder, where the sources are")?;
    let deployment = serde_json::from_str(&deployment).context("reading cloudbaserc.json")?;
    let parcels = chosen(&gateway::functions(), &args.functions, args.flavour, &deployment)?;
    let started = Instant::now();
    eprintln!(
        "building {} functions for {} …",
        parcels.len(),
        match args.libc {
            Libc::Musl => MUSL,
            Libc::Gnu => "glibc 2.17",
        }
    );
    let binaries = build(&parcels, args.libc)?;
    let built = started.elapsed();
    let mut rows = Vec::new();
    let mut sums = String::new();
    for parcel in &parcels {
        let bytes = std::fs::read(binaries.join(&parcel.krate)).with_context(|| format!("reading {}", parcel.krate))?;
        let report = binary::inspect(&bytes).with_context(|| format!("{} cannot be deployed", parcel.function))?;
        ensure!(report.bytes <= BYTES_MAX, "{} has {} bytes, more than {BYTES_MAX}", parcel.function, report.bytes);
        let zip = write(&args.out, parcel, bytes)?;
        sums.push_str(&format!("{}  {}.zip\n", zip.sha256, parcel.function));
        rows.push((parcel, report, zip.bytes));
    }
    let list = args.out.join("SHA256SUMS");
    std::fs::write(&list, sums).with_context(|| format!("writing {}", list.display()))?;
    say(table(&rows, built, started.elapsed()))?;
    say(format!("\n{}: {} folders and zips, SHA256SUMS", args.out.display(), rows.len()))?;
    Ok(ExitCode::SUCCESS)
}

/// What is to be packaged, and how. Fails on a function that there is not, or that cannot be of this flavour.
fn chosen(
    all: &[Function],
    named: &[String],
    flavour: Option<Flavour>,
    deployment: &Deployment,
) -> Result<Vec<Parcel>> {
    if let Some(unknown) = named.iter().find(|name| all.iter().all(|f| f.name() != name.as_str())) {
        bail!("there is no function {unknown}; cloudbaserc.json lists them all");
    }
    let wanted = all.iter().filter(|f| named.is_empty() || named.iter().any(|name| name == f.name()));
    wanted
        .map(|function| {
            let entry = deployment.functions.iter().find(|entry| entry.name == function.name());
            let event = entry.is_some_and(|entry| entry.r#type == "Event");
            let flavour = flavour.unwrap_or(if event { Flavour::Event } else { Flavour::Http });
            if flavour == Flavour::Event && function.is_raw() {
                bail!("{} answers a provider over HTTP and cannot be an event function", function.name());
            }
            if flavour == Flavour::Http && event {
                bail!("{} runs on a timer, and HTTP functions have none", function.name());
            }
            Ok(Parcel { function: function.name(), krate: crate_of(function.name()), flavour })
        })
        .collect()
}

/// `submitOrder` is in the crate `submit-order`, and `sendSMS` in `send-sms`.
fn crate_of(function: &str) -> String {
    let mut after_capital = false;
    function.chars().fold(String::new(), |mut name, c| {
        if c.is_ascii_uppercase() && !after_capital {
            name.push('-');
        }
        after_capital = c.is_ascii_uppercase();
        name.push(c.to_ascii_lowercase());
        name
    })
}

/// Builds them all in one go and returns the folder of the binaries.
fn build(parcels: &[Parcel], libc: Libc) -> Result<PathBuf> {
    let project = Project::read()?;
    let sysroot = PathBuf::from(said(Command::new("rustc").args(["--print", "sysroot"]))?.trim());
    let mut cargo = Command::new("cargo");
    let triple = match libc {
        Libc::Musl => {
            if said(Command::new("musl-gcc").arg("--version")).is_err() {
                bail!(
                    "musl-gcc is missing: install it (Debian and Ubuntu: apt-get install musl-tools), or use --libc gnu after \
                     pip install cargo-zigbuild ziglang"
                );
            }
            if !sysroot.join("lib/rustlib").join(MUSL).exists() {
                eprintln!("rustup target add {MUSL} …");
                said(Command::new("rustup").args(["target", "add", MUSL]))?;
            }
            cargo.args(["build", "--target", MUSL]);
            MUSL
        }
        Libc::Gnu => {
            if said(Command::new("cargo-zigbuild").arg("--version")).is_err() {
                bail!("cargo-zigbuild is missing: pip install cargo-zigbuild ziglang");
            }
            cargo.args(["zigbuild", "--target", "x86_64-unknown-linux-gnu.2.17"]);
            GNU
        }
    };
    cargo.args(["--release", "--locked", "--bins"]);
    for parcel in parcels {
        cargo.args(["-p", &parcel.krate]);
    }
    // The paths of this machine would be in panics and make other bytes elsewhere. These flags stand in for all others, so no
    // machine's own settings raise the CPU that is needed.
    let remap = |from: &str, to: &str| format!("--remap-path-prefix={from}={to}");
    let flags = [remap(&project.cargo_home, "/cargo"), remap(&project.root, "/jinlu")];
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let c_flags = format!("-ffile-prefix-map={}=/cargo -g0", project.cargo_home);
    cargo.env(format!("CFLAGS_{}", triple.replace('-', "_")), c_flags).env_remove("RUSTFLAGS");
    let status = cargo.status().context("starting cargo")?;
    ensure!(status.success(), "cargo could not build the functions; it said why above");
    Ok(Path::new(&project.target_dir).join(triple).join("release"))
}

/// Folders whose names must not get into the binaries, and where those are put.
struct Project {
    root: String,
    target_dir: String,
    /// Where cargo keeps the sources of dependencies.
    cargo_home: String,
}

impl Project {
    fn read() -> Result<Self> {
        #[derive(Deserialize)]
        struct Metadata {
            packages: Vec<Package>,
            workspace_root: String,
            target_directory: String,
        }
        #[derive(Deserialize)]
        struct Package {
            manifest_path: String,
        }
        let said = said(Command::new("cargo").args(["metadata", "--format-version", "1", "--locked"]))?;
        let metadata: Metadata = serde_json::from_str(&said).context("reading what cargo tells of the project")?;
        // Any dependency tells: …/registry/src/{registry}/{crate}/Cargo.toml.
        let home = metadata.packages.iter().find_map(|p| p.manifest_path.split_once("/registry/src/"));
        let (cargo_home, _) =
            home.context("no dependency of the project is on this machine: cargo fetch brings them")?;
        Ok(Self {
            cargo_home: cargo_home.to_owned(),
            root: metadata.workspace_root,
            target_dir: metadata.target_directory,
        })
    }
}

/// What a program says, if it ends well.
fn said(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("starting {name}"))?;
    ensure!(output.status.success(), "{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// The folder and the zip of one function.
fn write(out: &Path, parcel: &Parcel, binary: Vec<u8>) -> Result<archive::Zip> {
    let binary = File { name: "main", mode: 0o755, bytes: binary };
    let files = match parcel.flavour {
        Flavour::Http => [binary, File { name: "scf_bootstrap", mode: 0o755, bytes: BOOTSTRAP.as_bytes().to_vec() }],
        Flavour::Event => [File { name: "index.js", mode: 0o644, bytes: SHIM.as_bytes().to_vec() }, binary],
    };
    archive::write_folder(&out.join(parcel.function), &files)?;
    archive::write_zip(&out.join(format!("{}.zip", parcel.function)), &files)
}

fn table(rows: &[(&Parcel, Report, u64)], built: Duration, all: Duration) -> String {
    let megabytes = |bytes: u64| format!("{}.{}", bytes / 1_000_000, bytes / 100_000 % 10);
    let mut text = format!("{:<26}{:<8}{:>9}{:>9}  {}\n", "function", "flavour", "MB", "zip MB", "C library");
    for (parcel, report, zip) in rows {
        let flavour = if parcel.flavour == Flavour::Http { "http" } else { "event" };
        let note = if report.bytes > BYTES_WARN { "  over 10 MB" } else { "" };
        text.push_str(&format!(
            "{:<26}{flavour:<8}{:>9}{:>9}  {}{note}\n",
            parcel.function,
            megabytes(report.bytes),
            megabytes(*zip),
            report.libc,
        ));
    }
    let sum = |f: fn(&(&Parcel, Report, u64)) -> u64| rows.iter().map(f).sum::<u64>();
    let (binaries, zips) = (megabytes(sum(|r| r.1.bytes)), megabytes(sum(|r| r.2)));
    text.push_str(&format!("{:<26}{:<8}{binaries:>9}{zips:>9}\n", "together", ""));
    text.push_str(&format!("built in {:.0} s, packaged in {:.0} s", built.as_secs_f64(), (all - built).as_secs_f64()));
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment() -> Value {
        serde_json::from_str(include_str!("../../cloudbaserc.json")).unwrap()
    }

    fn pick(named: &[&str], flavour: Option<Flavour>) -> Result<Vec<(&'static str, String, Flavour)>> {
        let named: Vec<String> = named.iter().map(|name| (*name).to_owned()).collect();
        let deployment = serde_json::from_value(deployment())?;
        let parcels = chosen(&gateway::functions(), &named, flavour, &deployment)?;
        Ok(parcels.into_iter().map(|p| (p.function, p.krate, p.flavour)).collect())
    }

    #[test]
    fn each_function_is_packaged_as_it_is_deployed() {
        let all = pick(&[], None).unwrap();
        assert_eq!(all.len(), gateway::functions().len());
        for (function, krate, flavour) in &all {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../functions").join(krate);
            assert!(folder.join("src/main.rs").exists(), "{function} has no {}", folder.display());
            let entry = deployment();
            let entry = entry["functions"].as_array().unwrap().iter().find(|e| e["name"] == *function).unwrap().clone();
            assert_eq!(entry["type"], if *flavour == Flavour::Http { "HTTP" } else { "Event" }, "{function}");
            if *flavour == Flavour::Event {
                assert_eq!((&entry["handler"], &entry["installDependency"]), (&json!("index.main"), &json!(false)));
            }
        }
    }

    #[test]
    fn a_flavour_that_cannot_work_is_refused() {
        let two = pick(&["wxPay", "submitOrder"], None).unwrap();
        assert_eq!(
            two.iter().map(|p| (p.1.as_str(), p.2)).collect::<Vec<_>>(),
            [("submit-order", Flavour::Http), ("wx-pay", Flavour::Http)]
        );
        assert_eq!(pick(&["submitOrder"], Some(Flavour::Event)).unwrap()[0].2, Flavour::Event);
        for (function, flavour) in [("payCallback", Flavour::Event), ("expireCoins", Flavour::Http)] {
            assert!(pick(&[function], Some(flavour)).unwrap_err().to_string().contains(function));
        }
        assert!(pick(&["submitorder"], None).unwrap_err().to_string().contains("submitorder"));
    }
}

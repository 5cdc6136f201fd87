//! Rules of the repository that no compiler checks: who may depend on whom, who may name what, and what stays in step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A member of the workspace: its folder from the root, and what it depends on, by kind (`normal`, `dev`, `build`).
struct Package {
    folder: PathBuf,
    dependencies: BTreeMap<String, BTreeSet<String>>,
}

impl Package {
    fn is_function(&self) -> bool {
        self.folder.starts_with("functions")
    }

    fn names(&self, dependency: &str, kind: &str) -> bool {
        self.dependencies.get(kind).is_some_and(|names| names.contains(dependency))
    }
}

fn packages() -> BTreeMap<String, Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let top = metadata["workspace_root"].as_str().unwrap();
    let package = |package: &Value| {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let folder = manifest.parent().unwrap().strip_prefix(top).unwrap().to_owned();
        let mut dependencies: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for dependency in package["dependencies"].as_array().unwrap() {
            let kind = dependency["kind"].as_str().unwrap_or("normal").to_owned();
            dependencies.entry(kind).or_default().insert(dependency["name"].as_str().unwrap().to_owned());
        }
        (package["name"].as_str().unwrap().to_owned(), Package { folder, dependencies })
    };
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

/// All files below `folder` with this ending, but for what is built, downloaded or kept by tools.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && name != "node_modules" && !name.starts_with('.') {
                found.extend(files(&path, ending));
            }
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// `submitOrder` as a folder and crate name: `submit-order`; `sendSMS` is `send-sms`.
fn kebab(wire: &str) -> String {
    let mut after_capital = false;
    wire.chars().fold(String::new(), |mut text, c| {
        if c.is_ascii_uppercase() && !after_capital {
            text.push('-');
        }
        after_capital = c.is_ascii_uppercase();
        text.push(c.to_ascii_lowercase());
        text
    })
}

#[test]
fn crates_depend_in_one_direction() {
    let packages = packages();
    let functions: BTreeSet<&str> = packages.iter().filter(|(_, p)| p.is_function()).map(|(n, _)| n.as_str()).collect();
    let ours: BTreeSet<&str> = packages.keys().map(String::as_str).collect();
    let mut wrong = Vec::new();
    for (name, package) in &packages {
        let allowed: Vec<&str> = match name.as_str() {
            _ if package.is_function() => vec!["domain", "edge", "providers", "shop", "store", "wechat"],
            "domain" | "mongod" | "simulators" | "upstream" => vec![],
            "providers" | "wechat" => vec!["domain", "upstream"],
            "store" => vec!["domain"],
            "shop" => vec!["domain", "providers", "store", "wechat"],
            "edge" => vec!["domain", "providers", "store", "upstream", "wechat"],
            "gateway" => ["domain", "edge"].into_iter().chain(functions.iter().copied()).collect(),
            "jinlu" => vec![
                "domain",
                "edge",
                "gateway",
                "mongod",
                "providers",
                "shop",
                "simulators",
                "store",
                "upstream",
                "wechat",
            ],
            // The tests stand above everything.
            "it" => ours.iter().copied().collect(),
            other => panic!("{other} is new: say here what it may depend on"),
        };
        for (kind, dependencies) in &package.dependencies {
            for dependency in dependencies.iter().filter(|d| ours.contains(d.as_str())) {
                if !allowed.contains(&dependency.as_str()) {
                    wrong.push(format!("{name} must not depend on {dependency} ({kind})"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn drivers_and_servers_are_named_where_they_belong() {
    // The dependency, who may have it, who may have it for tests only, and how sources name it.
    let rules: [(&str, &[&str], &[&str]); 4] = [
        ("mongodb", &["store"], &["it"]),
        ("axum", &["edge", "gateway", "simulators", "jinlu", "it"], &["providers", "wechat"]),
        ("reqwest", &["upstream", "providers", "wechat", "simulators", "jinlu", "it"], &["gateway"]),
        ("jsonwebtoken", &["edge"], &["it"]),
    ];
    let packages = packages();
    let mut wrong = Vec::new();
    for (dependency, normal, dev) in rules {
        for (name, package) in &packages {
            let may = normal.contains(&name.as_str());
            let may_in_tests = may || dev.contains(&name.as_str());
            if package.names(dependency, "normal") && !may {
                wrong.push(format!("{name} must not depend on {dependency}"));
            }
            if package.names(dependency, "dev") && !may_in_tests {
                wrong.push(format!("{name} must not depend on {dependency}, not even in its tests"));
            }
            if may_in_tests {
                continue;
            }
            for path in files(&root().join(&package.folder), ".rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                if text.contains(&format!("{dependency}::")) {
                    wrong.push(format!("{} names {dependency}", shown(&path)));
                }
            }
        }
    }
    // A dev-dependency reaches every test; only those that do damage may use the driver, and those that need documents which
    // `store` cannot write: as the old system wrote them, rights to buy without a draw, a shop as it was before, states that no
    // command leads to.
    for path in files(&root().join("tests"), ".rs") {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let may = name.starts_with("audit")
            || [
                "histories.rs",
                "right.rs",
                "identity_card.rs",
                "lottery_faults.rs",
                "migrate.rs",
                "states.rs",
                "tidy.rs",
            ]
            .contains(&&*name);
        if text.contains("mongodb::") && !may {
            wrong.push(format!("{} names mongodb", shown(&path)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_reads_the_machines_time_zone() {
    let mut wrong = Vec::new();
    for folder in ["functions", "shared", "scripts", "tests"] {
        for path in files(&root().join(folder), ".rs").into_iter().filter(|p| !p.ends_with("it/tidy.rs")) {
            let text = std::fs::read_to_string(&path).unwrap();
            if ["chrono::Local", "Local::now", "offset::Local", "with_timezone(&Local"].iter().any(|w| text.contains(w))
            {
                wrong.push(format!("{} names chrono's Local: business days are Shanghai's", shown(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn versions_and_features_are_chosen_in_the_root_alone() {
    let mut wrong = Vec::new();
    for package in packages().values() {
        let path = root().join(&package.folder).join("Cargo.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            } else if section.ends_with("dependencies]") && !line.is_empty() && !line.starts_with('#') {
                let plain = line.split_once('.').is_some_and(|(_, rest)| rest == "workspace = true");
                if !plain {
                    wrong.push(format!("{}: {line}", shown(&path)));
                }
            }
        }
        if !text.contains("[lints]\nworkspace = true") {
            wrong.push(format!("{}: does not take the workspace's lints", shown(&path)));
        }
        for field in ["version", "edition", "rust-version", "license", "publish"] {
            if !text.contains(&format!("{field}.workspace = true")) {
                wrong.push(format!("{}: has a {field} of its own", shown(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_function_has_its_folder_its_main_and_its_places_in_the_lists() {
    let packages = packages();
    let folders: BTreeMap<&str, &Package> =
        packages.iter().filter(|(_, p)| p.is_function()).map(|(name, p)| (name.as_str(), p)).collect();
    let wire: Vec<&str> = gateway::functions().iter().map(edge::Function::name).collect();
    let expected: BTreeSet<String> = wire.iter().map(|name| kebab(name)).collect();
    assert_eq!(expected.len(), wire.len(), "a name is served twice: {wire:?}");
    let found: BTreeSet<String> = folders.keys().map(|name| (*name).to_owned()).collect();
    assert_eq!(found, expected, "folders of functions/ (left) and gateway::functions() (right) differ");
    for (name, package) in folders {
        assert_eq!(package.folder, Path::new("functions").join(name), "the folder is not called like the crate");
        let main = std::fs::read_to_string(root().join(&package.folder).join("src/main.rs")).unwrap();
        let module = name.replace('-', "_");
        let shape = format!(
            "use std::process::ExitCode;\n\nfn main() -> ExitCode {{\n    edge::run({module}::function())\n}}\n"
        );
        assert_eq!(main, shape, "functions/{name}/src/main.rs is not of the common shape");
    }

    let deployed = std::fs::read_to_string(root().join("cloudbaserc.json")).unwrap();
    let deployed: Value = serde_json::from_str(&deployed).unwrap();
    let deployed: BTreeSet<&str> =
        deployed["functions"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(deployed, wire.iter().copied().collect(), "cloudbaserc.json (left) and gateway::functions() differ");

    // The page that people read first; a checkout without it has nothing to be wrong.
    if let Ok(readme) = std::fs::read_to_string(root().join("README.md")) {
        let rows: Vec<&str> = readme.lines().filter(|line| line.trim_start().starts_with('|')).collect();
        let missing: Vec<&&str> =
            wire.iter().filter(|name| !rows.iter().any(|row| row.contains(&format!("`{name}`")))).collect();
        assert!(missing.is_empty(), "README.md has no table row for {missing:?}");
    }
}

#[test]
fn sources_keep_to_the_house_style() {
    let mut wrong = Vec::new();
    // Put together here, so that this file does not find itself.
    let (work, owner) = (["TO", "DO"].concat(), ["TO", "DO("].concat());
    let ignored = ["#[", "ignore"].concat();
    for path in files(&root(), ".rs") {
        let text = std::fs::read_to_string(&path).unwrap();
        let is_main = path.ends_with("src/main.rs") && shown(&path).starts_with("functions/");
        if !text.starts_with("//!") && !is_main && !text.contains("\n//!") && !path.ends_with("tests/mod.rs") {
            wrong.push(format!("{}: does not begin by saying what it is for", shown(&path)));
        }
        for (at, line) in text.lines().enumerate() {
            let mut say = |what: &str| wrong.push(format!("{}:{}: {what}", shown(&path), at + 1));
            if line.contains(&ignored) {
                say("a test that is not run proves nothing");
            }
            if line.contains(&work) && !line.contains(&owner) {
                say("work left over needs an owner");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

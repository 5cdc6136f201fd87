use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(add_prestore::function())
}

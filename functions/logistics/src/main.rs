use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(logistics::function())
}

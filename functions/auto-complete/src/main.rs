use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(auto_complete::function())
}

use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(notify_assignment::function())
}

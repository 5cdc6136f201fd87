use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(submit_order::function())
}

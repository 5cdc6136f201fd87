use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(reviews::function())
}

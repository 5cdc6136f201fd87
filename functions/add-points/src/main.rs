use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(add_points::function())
}

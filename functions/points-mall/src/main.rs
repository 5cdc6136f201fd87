use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(points_mall::function())
}

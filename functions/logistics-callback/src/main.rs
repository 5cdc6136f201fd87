use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(logistics_callback::function())
}

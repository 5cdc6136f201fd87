use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(pay_callback::function())
}

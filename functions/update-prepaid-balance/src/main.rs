use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(update_prepaid_balance::function())
}

use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(batch_update_orders::function())
}

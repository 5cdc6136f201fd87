use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(generate_order_id::function())
}

use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(settle_stock_markers::function())
}

use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(delete_product::function())
}

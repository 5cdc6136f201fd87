use std::process::ExitCode;

fn main() -> ExitCode {
    edge::run(link_user_to_customer::function())
}

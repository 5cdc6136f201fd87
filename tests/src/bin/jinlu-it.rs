//! `jinlu` as the fault tests run it: the same program, with one crash point armed. And `jinlu-it token URI DATABASE URL`, one of
//! many processes that need an access token at the same moment; and `jinlu-it deliver …`, a deliverer that is made to be killed.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "the test that starts this program says where it stops")]
    if let Ok(name) = std::env::var("JINLU_CRASHPOINT") {
        store::crashpoint::arm(&name);
    }
    // A function of the bundle as a process of its own, which takes no arguments.
    #[expect(clippy::disallowed_methods, reason = "the test that starts this program says what it is")]
    if let Ok(name) = std::env::var("JINLU_IT_FUNCTION") {
        let function = gateway::functions().into_iter().find(|function| function.name() == name);
        return function.map_or(ExitCode::FAILURE, edge::run);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["token", uri, database, url] => it::probe::main(uri, database, url),
        ["deliver", rest @ ..] => it::post::main(rest),
        _ => jinlu::cli::main(),
    }
}

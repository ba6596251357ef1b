//! Bytes as no client library sends them: inline commands, malformed requests, connections that end in the middle.

use std::io;

use super::wire::{Connection, Shown};
use super::world::{Side, World};

/// Bytes of a value that is so large that it may pass in pieces.
const LARGE: usize = 5_000_000;

/// What is sent, before the connection says that it has no more to send. Everything that is answered until the other side
/// closes must be the same.
const REQUESTS: &[&[u8]] = &[
    b"PING\r\n",
    b"PING\n",
    b"ping hallo\r\nECHO 'a b' \r\nECHO \"a\\x41\\n\\\"b\"\r\n",
    b"\r\n\r\nPING\r\n",
    b"SET inline:1 'some value'\r\nGET inline:1\r\nSTRLEN inline:1\r\n",
    b"ECHO \"no end\r\nPING\r\n",
    b"ECHO 'a'b\r\nPING\r\n",
    b"   \r\nPING\r\n",
    b"NOSUCH\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"*0\r\n*1\r\n$4\r\nPING\r\n",
    b"*-1\r\n*1\r\n$4\r\nPING\r\n",
    b"*x\r\nPING\r\n",
    b"*2000000000\r\n",
    b"*99999999999999999999\r\n",
    b"*\r\nPING\r\n",
    b"*1\r\n:4\r\nPING\r\n",
    b"*1\r\n+PING\r\n",
    b"*1\r\n$x\r\nPING\r\n",
    b"*1\r\n$-1\r\nPING\r\n",
    b"*1\r\n$\r\nPING\r\n",
    b"*1\r\n$99999999999\r\n",
    b"*1\r\n$4\r\nPING\r\n*1\r\n:0\r\n*1\r\n$4\r\nPING\r\n",
    b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
    b"*2\r\n$4\r\nECHO\r\n$3\r\n\x00\r\n\r\n",
    b"*1\r\n$0\r\n\r\n",
    b"*1\r\n$4\r\nPI",
    b"*1\r\n\xff4\r\nPING\r\n",
    b"*1\r\n\r\n",
    b"*1\rx$4\ryPINGzzPING\r\n",
    b"*2\r\n$4\r\nECHO\r\n$3\r\r\nab\r\nPING\r\n",
    b"PING\0\r\nPING\r\n",
    b"*1\0\r\n$4\r\nPING\r\n",
    b"ECHO a\x0bb\r\nECHO 'a'\x0c'b'\r\nECHO \x0ba\r\n",
    b"\xff \xfe\r\nCLIENT \xff\r\nHELLO 3 \xff\r\nCLIENT KILL USER \xff\r\nCLIENT LIST TYPE \xff\r\nSCAN \xff\r\n",
    b"EVAL \xff 0\r\nEVAL \xff 1 inline:4\r\nSCRIPT LOAD \xff\r\nEVALSHA \xff 0\r\n",
    b"EVAL \"return redis.error_reply('ERR \xff')\" 0\r\nEVAL \"return redis.error_reply('ERR \xff')\" 1 inline:4\r\n",
    b"EVAL \"return redis.status_reply('\xff')\" 0\r\nEVAL \"return {err='\xff \xfe'}\" 1 inline:4\r\n",
    b"MULTI\r\nEVAL \"return redis.error_reply('ERR \xff')\" 1 inline:4\r\nEXEC\r\nMULTI\r\n\xff \xfe\r\nEXEC\r\n",
    b"FUNCTION LOAD \xff\r\nFUNCTION LOAD '#!lua name=\xff'\r\nFUNCTION LOAD \"#!\xff name=a\\n\"\r\nFUNCTION LOAD \"#!lua \xff=a\\n\"\r\n\
      FUNCTION LOAD \"#!lua name=a\\n\xff\"\r\nFUNCTION DELETE \xff\r\nFCALL \xff 0\r\n",
    b"CONFIG SET \xff 1\r\nCONFIG SET maxmemory \xff\r\nCONFIG GET \xff\r\nCONFIG SET nosuch\xff 1 maxmemory \xff\r\n",
    b"ACL SETUSER x \xff\r\nACL GETUSER \xff\r\nACL CAT \xff\r\nACL DRYRUN \xff get a\r\nACL DELUSER \xff\r\n",
    b"LATENCY GRAPH \xff\r\nLATENCY RESET \xff\r\nSLOWLOG GET \xff\r\nMEMORY USAGE \xff\r\nOBJECT ENCODING \xff\r\n",
    b"CLIENT REPLY OFF\r\n*x\r\n",
    b"CLIENT REPLY SKIP\r\nECHO 'a\r\n",
    b"CLIENT REPLY SKIP\r\n\r\nPING\r\n",
    b"*2\r\n$4\r\nECHO\r\n",
    b"*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nEC",
    b"",
    b"\r\n",
    b"*1\r\n$4\r\nQUIT\r\n*1\r\n$4\r\nPING\r\n",
    b"SET inline:2 1\r\nQUIT\r\nSET inline:2 2\r\n",
    b"GET inline:2\r\nDEL inline:1 inline:2 inline:3\r\n",
    b"SET inline:3 3\r\nQUIT now\r\nGET inline:3\r\n",
    b"QUIT\r\n\r\n\r\n",
    b"GET / HTTP/1.1\r\nPING\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\n\r\nPING\r\n",
    b"host: localhost\r\nPING\r\n",
    b"CLIENT REPLY OFF\r\nSET inline:4 1\r\nGET inline:4\r\nCLIENT REPLY ON\r\nGET inline:4\r\n",
    b"CLIENT REPLY SKIP\r\nGET inline:4\r\nGET inline:4\r\n",
    b"CLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\nPING\r\n",
    b"CLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nPING 1\r\nPING 2\r\n",
    b"CLIENT REPLY OFF\r\nNOSUCH\r\nMGET inline:4 inline:5\r\nPING\r\n",
    b"CLIENT REPLY OFF\r\nSELECT x\r\nCLIENT REPLY SKIP\r\nPING 3\r\nCLIENT REPLY ON\r\nPING\r\n",
    b"HELLO 3\r\nCLIENT REPLY OFF\r\nSUBSCRIBE one\r\nPSUBSCRIBE o*\r\nUNSUBSCRIBE one\r\nCLIENT REPLY ON\r\n",
    b"CLIENT REPLY\r\nCLIENT REPLY MAYBE\r\n",
    b"MULTI\r\nSET inline:4 3\r\nGET inline:4\r\n",
    b"MULTI\r\nSET inline:4 3\r\nQUIT\r\nEXEC\r\n",
    b"GET inline:4\r\n",
    b"MULTI\r\nMULTI\r\nWATCH inline:4\r\nSET inline:4 5\r\nEXEC\r\n",
    b"MULTI\r\nPING\r\nECHO a\r\nTIME x\r\nEXEC\r\n",
    b"MULTI\r\nPING\r\nECHO a\r\nEXEC\r\nMULTI\r\nDISCARD\r\nDISCARD\r\nEXEC\r\n",
    b"MULTI\r\nSET inline:4\r\nEXEC\r\n",
    b"MULTI\r\nNOSUCH\r\nGET inline:4\r\nEXEC\r\nEXEC\r\n",
    b"MULTI\r\nINCR inline:4\r\nLPUSH inline:4 x\r\nINCR inline:4\r\nEXEC\r\n",
    b"MULTI\r\nINCR inline:4\r\nRESET\r\nEXEC\r\nGET inline:4\r\n",
    b"HELLO 3 SETNAME me\r\n*2\r\n$6\r\nCLIENT\r\n$7\r\nGETNAME\r\nGET nothing\r\nLPOP nothing 1\r\nRESET\r\nGET nothing\r\n\
      CLIENT GETNAME\r\n",
    b"HELLO 3 AUTH default x SETNAME\r\nHELLO 3 AUTH default x NOSUCH\r\nHELLO 4\r\nHELLO 2 3\r\nHELLO x\r\n",
    b"HELLO 3 SETNAME \"a b\"\r\nCLIENT GETNAME\r\n",
    b"SUBSCRIBE one two\r\nPING\r\nPING hallo\r\nGET inline:4\r\nSUBSCRIBE one\r\nPSUBSCRIBE o*\r\nUNSUBSCRIBE one\r\n\
      UNSUBSCRIBE nosuch\r\nPUNSUBSCRIBE o*\r\nUNSUBSCRIBE two\r\nGET inline:4\r\n",
    b"HELLO 3\r\nSUBSCRIBE one\r\nPING\r\nGET inline:4\r\nUNSUBSCRIBE one\r\nPUNSUBSCRIBE\r\n",
    b"UNSUBSCRIBE\r\nUNSUBSCRIBE a b\r\nPUNSUBSCRIBE\r\nSUNSUBSCRIBE\r\n",
    b"SUBSCRIBE\r\nPSUBSCRIBE\r\nSSUBSCRIBE\r\nSSUBSCRIBE one\r\nSUNSUBSCRIBE one\r\nPING\r\n",
    b"SUBSCRIBE one\r\nRESET\r\nGET inline:4\r\n",
    b"SUBSCRIBE one\r\nQUIT\r\nGET inline:4\r\n",
    b"SUBSCRIBE one\r\nMULTI\r\nNOSUCH\r\nGET\r\n",
    b"BLPOP inline:list 0.01\r\nPING\r\nRPUSH inline:list a b\r\nBLPOP inline:list inline:list 1\r\nDEL inline:list\r\n",
    b"MULTI\r\nBLPOP inline:list 0\r\nEXEC\r\n",
    b"SELECT\r\nSELECT 0\r\nSELECT -1\r\nSELECT 1x\r\nSELECT 10000\r\n",
    b"AUTH\r\nAUTH a b c\r\nAUTH default any\r\n",
    b"COMMAND DOCS nosuch\r\nCOMMAND GETKEYS\r\nCOMMAND GETKEYS PING\r\nCOMMAND GETKEYS NOSUCH a\r\n",
    b"CLIENT\r\nCLIENT SETNAME\r\nCLIENT KILL\r\nCLIENT UNBLOCK 999999\r\nCLIENT NO-EVICT maybe\r\nCLIENT ID 1\r\n",
    b"DEL inline:4\r\nEVAL \"return {KEYS[1],ARGV[1]}\" 1 inline:4 x\r\nEVAL \"return 1\" -1\r\nEVAL \"return 1\" 2 a\r\n\
      EVAL x\r\n",
];

/// Requests that a proxy passes on in pieces, in the usual form and in others that a server takes.
fn large() -> Vec<Vec<u8>> {
    let value = vec![b'v'; LARGE];
    let heads = [
        "\r\n$5000000\r\n",
        "\r\n$5000000\r\r",
        "\r\n$5000000\rx",
        "zz$5000000\r\n",
    ];
    let requests = heads.map(|head| {
        let head = format!("*3\r\n$3\r\nSET\r\n$12\r\ninline:large{head}");
        [
            head.as_bytes(),
            &value,
            b"\r\nSTRLEN inline:large\r\nDEL inline:large\r\n",
        ]
        .concat()
    });
    requests.to_vec()
}

/// What is answered to a request, all of it.
fn answer(mut connection: Connection, request: &[u8]) -> io::Result<Vec<u8>> {
    connection.send(request)?;
    connection.finish()?;
    connection.read_to_end()
}

/// Every request that is answered differently, with both answers.
pub fn differences(world: &World) -> Vec<String> {
    let mut differences = Vec::new();
    let requests = REQUESTS.iter().map(|request| request.to_vec());
    for request in requests.chain(large()) {
        let ask = |side| {
            let answer = world
                .open_plain(side)
                .and_then(|connection| answer(connection, &request));
            answer.map(without_ids).map_err(|error| error.to_string())
        };
        let (one, fleet) = (ask(Side::One), ask(Side::Fleet));
        if one != fleet {
            let show = |answer: Result<Vec<u8>, String>| match answer {
                Ok(bytes) => Shown(&bytes).to_string(),
                Err(error) => error,
            };
            differences.push(format!(
                "sent:       {}\none server: {}\nthe fleet:  {}\n",
                Shown(&request),
                show(one),
                show(fleet)
            ));
        }
    }
    differences
}

/// HELLO says the number of the connection.
pub fn without_ids(answer: Vec<u8>) -> Vec<u8> {
    let before = b"$2\r\nid\r\n:";
    let (mut rest, mut kept) = (&answer[..], Vec::new());
    while let Some(at) = rest.windows(before.len()).position(|bytes| bytes == before) {
        let (first, id) = rest.split_at(at + before.len());
        kept.extend_from_slice(first);
        let digits = id.iter().take_while(|byte| byte.is_ascii_digit()).count();
        rest = &id[digits..];
    }
    kept.extend_from_slice(rest);
    kept
}

use std::io::BufRead;

use super::*;

/// A server whose answers follow from the requests.
struct Server {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<Mutex<u64>>,
}

#[derive(Clone)]
struct Received {
    head: String,
    body: Vec<u8>,
}

impl Received {
    fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }
}

impl Server {
    /// An empty answer is none: the connection ends.
    fn start(answer: impl Fn(&Received, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (received, connections) = (Arc::default(), Arc::default());
        let server = Self { address, received: Arc::clone(&received), connections: Arc::clone(&connections) };
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                *locked(&connections) += 1;
                let (received, answer) = (Arc::clone(&received), Arc::clone(&answer));
                thread::spawn(move || serve(stream.unwrap(), &received, &*answer));
            }
        });
        server
    }

    fn received(&self) -> Vec<Received> {
        locked(&self.received).clone()
    }

    fn targets(&self) -> Vec<String> {
        self.received().iter().map(|received| received.target().to_owned()).collect()
    }
}

fn serve(stream: TcpStream, received: &Mutex<Vec<Received>>, answer: &dyn Fn(&Received, usize) -> Vec<u8>) {
    let mut reader = BufReader::new(stream);
    for count in 0.. {
        let Some((head, body, Ok(()))) = read_message(&mut reader, true) else { return };
        let request = Received { head, body };
        locked(received).push(request.clone());
        let bytes = answer(&request, count);
        if reader.get_mut().write_all(&bytes).is_err() || bytes.is_empty() || bytes.starts_with(b"HTTP/1.0") {
            return;
        }
    }
}

/// Reads a message, without any code of the proxy. The body is as it is on the wire.
fn read_message(reader: &mut impl BufRead, is_request: bool) -> Option<(String, Vec<u8>, io::Result<()>)> {
    let (mut head, mut body) = (String::new(), Vec::new());
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let lower = head.to_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
    let end = if let Some(length) = length {
        let length: u64 = length.parse().unwrap();
        let end = reader.by_ref().take(length).read_to_end(&mut body).map(drop);
        if end.is_ok() && (body.len() as u64) < length { Err(ErrorKind::UnexpectedEof.into()) } else { end }
    } else if lower.contains("transfer-encoding: chunked") {
        while !body.ends_with(b"0\r\n\r\n") && reader.read_until(b'\n', &mut body).unwrap() > 0 {}
        Ok(())
    } else if is_request || lower.contains(" 204 ") {
        Ok(())
    } else {
        reader.read_to_end(&mut body).map(drop)
    };
    Some((head, body, end))
}

/// A client with one connection.
struct Client(BufReader<TcpStream>);

struct Reply {
    head: String,
    body: Vec<u8>,
    end: io::Result<()>,
}

impl Client {
    fn of(proxy: &Proxy) -> Self {
        Self(BufReader::new(TcpStream::connect(proxy.address()).unwrap()))
    }

    fn send(&mut self, request: &[u8]) {
        self.0.get_mut().write_all(request).unwrap();
    }

    fn reply(&mut self) -> Option<Reply> {
        read_message(&mut self.0, false).map(|(head, body, end)| Reply { head, body, end })
    }

    fn get(&mut self, target: &str) -> Option<Reply> {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: bucket\r\n\r\n").as_bytes());
        self.reply()
    }

    fn put(&mut self, target: &str, body: &[u8]) -> Option<Reply> {
        let head = format!("PUT {target} HTTP/1.1\r\nHost: bucket\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send(&[head.as_bytes(), body].concat());
        self.reply()
    }
}

fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"e\"\r\n\r\n", body.as_ref().len());
    [head.as_bytes(), body.as_ref()].concat()
}

fn start(server: &Server, script: impl Script + 'static) -> Proxy {
    Proxy::start(server.address, Network::default(), script).unwrap()
}

fn faults(proxy: &Proxy) -> Vec<Option<Fault>> {
    proxy.log().into_iter().map(|seen| seen.fault).collect()
}

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";

#[test]
fn both_sides_get_what_the_other_one_sent() {
    let chunked = "3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n";
    let server = Server::start(move |request, _| match request.target() {
        "/chunked" => {
            format!("HTTP/1.1 200 Fine by me\r\nX-Odd:  1 \r\nTransfer-Encoding: chunked\r\n\r\n{chunked}").into()
        }
        "/nothing" => b"HTTP/1.1 204 No Content\r\n\r\n".into(),
        _ => ok(&request.body),
    });
    let proxy = start(&server, nothing());
    let mut client = Client::of(&proxy);

    let head = "GET /chunked HTTP/1.1\r\nhOST:  bucket:1\r\nx-amz-Date:now\r\nX-Empty:\r\n\r\n";
    client.send(head.as_bytes());
    let reply = client.reply().unwrap();
    assert_eq!(reply.head, "HTTP/1.1 200 Fine by me\r\nX-Odd: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(reply.body, chunked.as_bytes());
    assert_eq!(server.received()[0].head, head);

    for length in [0, 1, SMALL_BODY_BYTES as usize, SMALL_BODY_BYTES as usize + 1, 3_000_001] {
        let body: Vec<u8> = (0..length).map(|at| (at / 7) as u8).collect();
        let reply = client.put("/echo", &body).unwrap();
        assert!(reply.body == body && reply.end.is_ok());
        assert_eq!(reply.head.lines().nth(2), Some("ETag: \"e\""));
    }

    client.send(format!("POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}").as_bytes());
    assert_eq!(client.reply().unwrap().body, chunked.as_bytes());
    assert_eq!(client.get("/nothing").unwrap().body, b"");
    assert_eq!(client.get("/echo?last").unwrap().body, b"");

    assert_eq!(*locked(&server.connections), 1);
    assert_eq!(proxy.requests(), 9);
    let log = proxy.log();
    let seen = |method: &str, target: &str, request_bytes, status, response_bytes| Seen {
        method: method.into(),
        target: target.into(),
        request_bytes,
        status: Some(status),
        response_bytes,
        fault: None,
    };
    assert_eq!(log[0], seen("GET", "/chunked", 0, 200, 19));
    assert_eq!(log[5], seen("PUT", "/echo", 3_000_001, 200, 3_000_001));
    assert_eq!(log[6], seen("POST", "/p", 19, 200, chunked.len() as u64));
    assert_eq!(log[7], seen("GET", "/nothing", 0, 204, 0));
    assert_eq!(log[8], seen("GET", "/echo?last", 0, 200, 0));
    assert_eq!(proxy.counts()["GET"], Count { requests: 3, request_bytes: 0, response_bytes: 19 });
}

#[test]
fn an_answer_to_head_has_a_length_but_no_body() {
    let server = Server::start(|request, _| match request.target() {
        "/a" => b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".into(),
        _ => ok(LETTERS),
    });
    let proxy = start(&server, |_: &Request<'_>| Some(Fault::LongBody));
    let mut client = Client::of(&proxy);
    client.send(b"HEAD /a HTTP/1.1\r\n\r\n");
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        client.0.read_line(&mut head).unwrap();
    }
    assert_eq!(head, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    assert_eq!(client.get("/b").unwrap().body.len(), LETTERS.len() + WRONG_BYTES);
    assert_eq!(faults(&proxy), [None, Some(Fault::LongBody)]);
}

#[test]
fn a_client_that_waits_before_it_sends_the_body_is_told_to_go_on() {
    let server = Server::start(|request, _| [b"HTTP/1.1 100 Continue\r\n\r\n", ok(&request.body).as_slice()].concat());
    let proxy = start(&server, nth(1, Fault::Status(503)));
    let mut client = Client::of(&proxy);
    for status in ["200", "503"] {
        client.send(b"PUT /k HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
        let mut interim = String::new();
        client.0.read_line(&mut interim).unwrap();
        client.0.read_line(&mut interim).unwrap();
        assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
        client.send(b"abc");
        assert_eq!(client.reply().unwrap().head.split(' ').nth(1), Some(status));
    }
    assert!(server.received()[0].head.contains("\r\nExpect: 100-continue\r\n"));
    assert_eq!(server.received().len(), 1);
}

#[test]
fn the_connection_to_the_client_outlives_those_to_the_server() {
    let server = Server::start(|request, count| match (request.target(), count) {
        ("/closes", _) => b"HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nc".into(),
        // it has read the request when it closes, so that the proxy could not know before
        ("/drops-kept", 1..) => Vec::new(),
        _ => ok("k"),
    });
    let proxy = start(&server, nothing());
    let mut client = Client::of(&proxy);
    for _ in 0..3 {
        assert_eq!(client.get("/closes").unwrap().head, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n");
    }
    assert_eq!(client.get("/keeps").unwrap().body, b"k");
    assert_eq!(client.put("/drops-kept", b"body").unwrap().body, b"k");
    assert_eq!(*locked(&server.connections), 5);
    assert_eq!(server.targets()[4..], ["/drops-kept", "/drops-kept"]);
    assert_eq!(server.received()[5].body, b"body");

    // what was streamed is gone
    let long = vec![0; SMALL_BODY_BYTES as usize + 1];
    assert!(client.put("/drops-kept", &long).is_none());
}

#[test]
fn a_body_may_end_with_its_connection() {
    let server = Server::start(|_, _| b"HTTP/1.0 200 OK\r\n\r\nall of it".into());
    let proxy = start(&server, nth(1, Fault::WrongByte));
    let reply = Client::of(&proxy).get("/").unwrap();
    assert_eq!(reply.head, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    assert_eq!(reply.body, b"all of it");
    let mut client = Client::of(&proxy);
    let reply = client.get("/").unwrap();
    assert_eq!(reply.head, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
    assert_eq!(reply.body, b"all nf it");
    client.send(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    let reply = client.reply().unwrap();
    assert!(reply.body == b"all of it" && client.reply().is_none());
}

#[test]
fn what_is_no_http_ends_the_connection() {
    let server = Server::start(|request, _| match request.target() {
        "/short" => b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nabc".into(),
        _ => b"HTTP/1.0 what?\r\n\r\n".into(),
    });
    let proxy = start(&server, nothing());
    for request in ["GET\r\n\r\n", "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        let mut client = Client::of(&proxy);
        client.send(request.as_bytes());
        assert!(client.reply().is_none(), "{request}");
    }
    let reply = Client::of(&proxy).get("/short").unwrap();
    assert!(reply.body == b"abc" && reply.end.is_err());
    let nobody = Proxy::start(proxy.address(), Network::default(), nothing()).unwrap();
    drop(proxy);
    assert!(Client::of(&nobody).get("/").is_none());
    assert_eq!(nobody.log()[0].status, None);
}

#[test]
fn the_proxy_answers_with_an_error_itself() {
    let server = Server::start(|_, _| ok(LETTERS));
    let proxy = start(&server, every(2, Fault::Status(503)));
    let mut client = Client::of(&proxy);
    assert_eq!(client.get("/0").unwrap().body, LETTERS.as_bytes());
    let reply = client.put("/1", &[7; 200_000]).unwrap();
    assert!(reply.head.starts_with("HTTP/1.1 503 SlowDown\r\n"));
    assert!(reply.body.starts_with(b"<Error><Code>SlowDown</Code>"));
    assert_eq!(client.get("/2").unwrap().body, LETTERS.as_bytes());
    client.send(b"HEAD /3 HTTP/1.1\r\n\r\n");
    assert!(client.reply().unwrap().head.starts_with("HTTP/1.1 503"));
    assert_eq!(client.get("/4").unwrap().body, LETTERS.as_bytes());
    assert_eq!(server.targets(), ["/0", "/2", "/4"]);
    assert_eq!(proxy.log()[1].request_bytes, 200_000);
    assert_eq!(proxy.log()[1].status, Some(503));
    assert_eq!(proxy.log()[1].fault, Some(Fault::Status(503)));
}

#[test]
fn a_connection_is_reset_before_or_after_the_server_hears_of_a_request() {
    for (fault, heard) in [(Fault::ResetBefore, 0), (Fault::LostAnswer, 1)] {
        let server = Server::start(|_, _| ok(LETTERS));
        let proxy = start(&server, nth(0, fault.clone()));
        let mut client = Client::of(&proxy);
        client.send(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(client.0.fill_buf().unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(server.received().len(), heard);
        let seen = &proxy.log()[0];
        assert_eq!((seen.status, seen.response_bytes, &seen.fault), (None, 0, &Some(fault)));
        assert_eq!(Client::of(&proxy).get("/").unwrap().body, LETTERS.as_bytes());
    }
}

#[test]
fn a_body_is_cut() {
    let server = Server::start(|request, _| ok(if request.target() == "/empty" { "" } else { LETTERS }));
    let cases = [
        (Part::Bytes(0), 0),
        (Part::Bytes(10), 10),
        (Part::Bytes(1000), LETTERS.len() - 1),
        (Part::Percent(50), 13),
        (Part::Percent(100), LETTERS.len() - 1),
    ];
    for (part, arriving) in cases {
        let proxy = start(&server, every(1, Fault::CutBody(part)));
        let reply = Client::of(&proxy).get("/").unwrap();
        assert!(reply.head.contains("Content-Length: 26\r\n"));
        assert_eq!(reply.body, LETTERS.as_bytes()[..arriving]);
        assert_eq!(reply.end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(proxy.log()[0].response_bytes, arriving as u64);
        assert!(Client::of(&proxy).get("/empty").unwrap().end.is_ok());
        assert_eq!(faults(&proxy), [Some(Fault::CutBody(part)), None]);
    }
}

#[test]
fn a_body_is_too_short_too_long_or_wrong() {
    let server = Server::start(|_, _| ok(LETTERS));
    let bodies = [Fault::ShortBody, Fault::LongBody, Fault::WrongByte].map(|fault| {
        let proxy = start(&server, nth(0, fault.clone()));
        let mut client = Client::of(&proxy);
        let reply = client.get("/").unwrap();
        assert!(reply.head.contains(&format!("Content-Length: {}\r\n", reply.body.len())));
        assert_eq!(client.get("/").unwrap().body, LETTERS.as_bytes());
        assert_eq!(faults(&proxy), [Some(fault), None]);
        String::from_utf8(reply.body).unwrap()
    });
    let expected = ["abcdefghijklmnopqrstu", "abcdefghijklmnopqrstuvwxyz\0\0\0\0\0", "abcdefghijklmoopqrstuvwxyz"];
    assert_eq!(bodies, expected);
}

#[test]
fn the_server_gets_a_request_twice() {
    let count = Mutex::new(0);
    let server = Server::start(move |_, _| {
        *locked(&count) += 1;
        ok(format!("{}", *locked(&count)))
    });
    let proxy = start(&server, every(1, Fault::Duplicate));
    let mut client = Client::of(&proxy);
    let body = vec![9; 100_000];
    assert_eq!(client.put("/a", &body).unwrap().body, b"2");
    client.send(b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n");
    assert_eq!(client.reply().unwrap().body, b"4");
    assert_eq!(server.targets(), ["/a", "/a", "/b", "/b"]);
    let received = server.received();
    assert!(received[0].body == body && received[1].body == body && received[0].head == received[1].head);
    assert_eq!(received[2].body, received[3].body);
    assert_eq!(proxy.log()[0].request_bytes, 100_000);
}

#[test]
fn a_listing_is_stale() {
    let count = Mutex::new(0);
    let server = Server::start(move |_, _| {
        *locked(&count) += 1;
        ok(format!("{}", *locked(&count)))
    });
    let fault = Mutex::new(vec![None, None, Some(Fault::StaleListing), None]);
    let proxy = start(
        &server,
        move |request: &Request<'_>| {
            if request.number < 4 { locked(&fault).remove(0) } else { Some(Fault::StaleListing) }
        },
    );
    let mut client = Client::of(&proxy);
    let mut get = |target| String::from_utf8(client.get(target).unwrap().body).unwrap();
    let listing = "/bucket?prefix=a&list-type=2";
    assert_eq!([(); 4].map(|()| get(listing)), ["1", "2", "1", "3"]);
    assert_eq!(get("/bucket?prefix=b&list-type=2"), "4");
    assert_eq!(get("/bucket?prefix=b&list-type=2"), "4");
    assert_eq!(get("/container?comp=list"), "5");
    assert_eq!(get("/container?comp=list"), "5");
    assert_eq!(get("/container?comp=listing"), "6");
    assert_eq!(get("/container?comp=listing"), "7");
    let stale = Some(Fault::StaleListing);
    let expected = [None, None, stale.clone(), None, None, stale.clone(), None, stale, None, None];
    assert_eq!(faults(&proxy), expected);
}

#[test]
fn a_listing_lacks_its_last_entries() {
    let server = Server::start(|request, _| match request.target() {
        "/?list-type=2" => ok("<ListBucketResult><KeyCount>5</KeyCount><IsTruncated>true</IsTruncated>\
             <Contents><Key>a</Key></Contents>\n<Contents><Key>b</Key></Contents>\n\
             <CommonPrefixes>p</CommonPrefixes><CommonPrefixes>q</CommonPrefixes><Contents><Key>c</Key></Contents>\
             <NextContinuationToken>more</NextContinuationToken></ListBucketResult>"),
        "/?comp=list" => ok("<EnumerationResults><Blobs><Blob><Name>a</Name></Blob><Blob><Name>b</Name></Blob>\
             <BlobPrefix><Name>p</Name></BlobPrefix></Blobs><NextMarker>more</NextMarker></EnumerationResults>"),
        _ => ok("<Contents></Contents>"),
    });
    let proxy = start(&server, every(1, Fault::TruncatedListing));
    let mut client = Client::of(&proxy);
    let mut get = |target| String::from_utf8(client.get(target).unwrap().body).unwrap();
    assert_eq!(
        get("/?list-type=2"),
        "<ListBucketResult><KeyCount>3</KeyCount><IsTruncated>false</IsTruncated>\
         <Contents><Key>a</Key></Contents>\n\n\
         <CommonPrefixes>p</CommonPrefixes><CommonPrefixes>q</CommonPrefixes></ListBucketResult>"
    );
    assert_eq!(
        get("/?comp=list"),
        "<EnumerationResults><Blobs><Blob><Name>a</Name></Blob>\
         <BlobPrefix><Name>p</Name></BlobPrefix></Blobs><NextMarker></NextMarker></EnumerationResults>"
    );
    assert_eq!(get("/other"), "<Contents></Contents>");
    assert_eq!(faults(&proxy), [Some(Fault::TruncatedListing), Some(Fault::TruncatedListing), None]);
}

#[test]
fn numbers_go_over_all_connections() {
    let server = Server::start(|request, _| ok(request.target()));
    let numbers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&numbers);
    let proxy = start(&server, move |request: &Request<'_>| {
        locked(&seen).push((request.number, request.target.to_owned()));
        None
    });
    thread::scope(|scope| {
        for client_number in 0..8 {
            let proxy = &proxy;
            scope.spawn(move || {
                let mut client = Client::of(proxy);
                for request_number in 0..50 {
                    let target = format!("/{client_number}/{request_number}");
                    assert_eq!(client.get(&target).unwrap().body, target.as_bytes());
                }
            });
        }
    });
    let mut numbers = locked(&numbers).clone();
    numbers.sort();
    let logged = proxy.log().into_iter().zip(0..).map(|(seen, number)| (number, seen.target));
    assert!(logged.eq(numbers) && proxy.requests() == 400);
}

#[test]
fn scripts_choose_by_number() {
    let numbers = |script: &dyn Script| {
        let fault = |number: &u64| script.fault(&Request { number: *number, method: "GET", target: "/" }).is_some();
        (0..10).filter(fault).collect::<Vec<_>>()
    };
    assert!(numbers(&nothing()).is_empty());
    assert_eq!(numbers(&nth(3, Fault::ShortBody)), [3]);
    assert_eq!(numbers(&every(3, Fault::ShortBody)), [2, 5, 8]);
    assert_eq!(numbers(&every(1, Fault::ShortBody)).len(), 10);
}

#[test]
fn bandwidth_is_one_budget() {
    let budget = Budget::new(Some(1_000_000));
    let first = budget.reserve(250_000).unwrap();
    assert_eq!(budget.reserve(500_000).unwrap() - first, Duration::from_millis(500));
    assert_eq!(budget.reserve(1).unwrap() - first, Duration::from_micros(500_001));
    assert_eq!(Budget::new(None).reserve(1), None);
}

#[test]
fn a_slow_network_loses_nothing() {
    let server = Server::start(|request, _| ok(&request.body));
    let network = Network { latency: Duration::from_millis(1), connect: true, bytes_per_second: Some(1_000_000_000) };
    let proxy = Proxy::start(server.address, network, every(2, Fault::Slow(Duration::from_millis(1)))).unwrap();
    let mut client = Client::of(&proxy);
    for length in [10, 1_000_000] {
        assert!(client.put("/", &vec![3; length]).unwrap().body == vec![3; length]);
    }
    assert_eq!(faults(&proxy), [None, Some(Fault::Slow(Duration::from_millis(1)))]);
}

#[test]
fn a_drop_ends_whatever_goes_on() {
    let (arrived, arrival) = std::sync::mpsc::channel();
    let hears_of = arrived.clone();
    // this server never answers
    let server = Server::start(move |_, _| {
        hears_of.send(()).unwrap();
        loop {
            thread::park();
        }
    });
    let proxy = start(&server, move |request: &Request<'_>| {
        arrived.send(()).unwrap();
        (request.target == "/slow").then_some(Fault::Slow(Duration::from_secs(1_000_000)))
    });
    let mut clients = [(); 4].map(|()| Client::of(&proxy));
    clients[1].send(b"GET /slow HTTP/1.1\r\n\r\n");
    clients[2].send(b"GET /never HTTP/1.1\r\n\r\n");
    clients[3].send(b"PUT /half HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nabc");
    for _ in 0..4 {
        arrival.recv().unwrap();
    }
    let address = proxy.address();
    drop(proxy);
    for client in &mut clients {
        assert!(client.reply().is_none());
    }
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_panic_in_a_script_is_not_lost() {
    let server = Server::start(|_, _| ok(""));
    let proxy = start(&server, |_: &Request<'_>| -> Option<Fault> { panic!("the script does not like it") });
    assert!(Client::of(&proxy).get("/").is_none());
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(proxy))).is_err());
}

//! A network as bad as it can be: an HTTP/1.1 proxy between a client and a server on this machine.
//!
//! All that is bad lies between the client and the proxy; what the proxy asks of the server goes the perfect way.
//!
//! * Without a [`Fault`], both sides get what the other one sent. The head of a request reaches the server byte for
//!   byte, since signatures cover it. In the head of an answer changes what concerns the one connection, and where the
//!   whole body was read first, how its length is told.
//! * Bodies stream through in pieces, unless they are small or a fault needs the whole of one.
//! * A request has its number, and is in the log, before a [`Script`] decides what becomes of it. What the client gets
//!   is in the log before the client has it, so that a test which got its answer finds it there.
//! * The bandwidth is shared by all connections, each direction with a budget of its own.
//! * After the drop of a [`Proxy`] none of its threads and connections is left.
//!
//! Not for upgrades, `CONNECT`, TLS, HTTP/2, or requests sent before the answer to the last one came.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

use self::http::{Answer, Framing, Head, each_piece, read_head};

mod http;
#[cfg(test)]
mod tests;

/// How much is taken from a connection at once, at most: half a millisecond at 1 Gbit/s.
const PIECE_BYTES: usize = 64 << 10;
/// Longer bodies of requests cannot be sent again where the server closes a kept connection instead of an answer.
const SMALL_BODY_BYTES: u64 = 64 << 10;
/// How much too short or too long a body of a wrong length is.
const WRONG_BYTES: usize = 5;
/// How late a thread may wake up without bandwidth being lost; also how much an idle network lets through at once.
const LATENESS: Duration = Duration::from_millis(5);

/// What the network is like where no fault is.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// What each request waits before it is forwarded.
    pub latency: Duration,
    /// A new connection costs the latency once more.
    pub connect: bool,
    /// What all connections together carry in each direction, heads and bodies; unlimited where there is none.
    pub bytes_per_second: Option<u64>,
}

/// A request, as a [`Script`] sees it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// How many requests came before it, over all connections.
    pub number: u64,
    /// The method.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
}

impl Request<'_> {
    /// Tells whether it asks for a page of S3's `ListObjectsV2` or of Azure's `List Blobs`.
    pub fn is_listing(&self) -> bool {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        self.method == "GET" && query.split('&').any(|pair| ["list-type=2", "comp=list"].contains(&pair))
    }
}

/// How much of a body arrives. The last byte never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// So many bytes.
    Bytes(usize),
    /// So many hundredths.
    Percent(usize),
}

impl Part {
    fn of(self, whole: usize) -> usize {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => whole.saturating_mul(percent) / 100,
        }
    }
}

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The proxy answers with this status and an error like those of S3. The server hears nothing of the request.
    Status(u16),
    /// The connection is reset. The server hears nothing of the request.
    ResetBefore,
    /// The server carries the request out, then the connection is reset instead of an answer.
    LostAnswer,
    /// The head of the answer arrives, and a part of the body, then the connection is reset. Of a long part the client
    /// may get less, since a reset overtakes what is on its way.
    CutBody(Part),
    /// The last bytes of the answer are missing, and its head says that it is whole.
    ShortBody,
    /// The answer has a few bytes more than the server sent, and its head says so.
    LongBody,
    /// A bit in the middle of the answer is not what the server sent.
    WrongByte,
    /// The server gets the request twice, the client the second answer.
    Duplicate,
    /// The latter half of the entries is missing in a listing, which says that nothing comes after it.
    TruncatedListing,
    /// A listing is what the same request got when the proxy first saw it. The server hears nothing of the request.
    StaleListing,
    /// The request waits that much longer before it is forwarded.
    Slow(Duration),
}

/// Decides what goes wrong, while the request waits. A fault that cannot be (a wrong byte in an empty body, a listing
/// of something else) changes nothing, and is not in the log.
pub trait Script: Send + Sync {
    /// Returns what goes wrong with a request.
    fn fault(&self, request: &Request<'_>) -> Option<Fault>;
}

impl<F: Fn(&Request<'_>) -> Option<Fault> + Send + Sync> Script for F {
    fn fault(&self, request: &Request<'_>) -> Option<Fault> {
        self(request)
    }
}

/// Nothing goes wrong.
pub fn nothing() -> impl Script {
    |_: &Request<'_>| None
}

/// The request of this number goes wrong, and no other.
pub fn nth(number: u64, fault: Fault) -> impl Script {
    move |request: &Request<'_>| (request.number == number).then(|| fault.clone())
}

/// The last one of so many requests goes wrong, again and again; with 1 all do.
pub fn every(count: u64, fault: Fault) -> impl Script {
    move |request: &Request<'_>| (request.number + 1).is_multiple_of(count).then(|| fault.clone())
}

/// A request that the proxy has seen, and what it came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// How much of its body the client sent.
    pub request_bytes: u64,
    /// The status that the client got, unless it got none.
    pub status: Option<u16>,
    /// How much of a body the client was sent.
    pub response_bytes: u64,
    /// What went wrong.
    pub fault: Option<Fault>,
}

/// Requests taken together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many they are.
    pub requests: u64,
    /// The bytes of their bodies.
    pub request_bytes: u64,
    /// The bytes of the bodies that the client was sent for them.
    pub response_bytes: u64,
}

/// A proxy that is running.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts one in front of a server, on a free port of this machine.
    ///
    /// # Errors
    /// No port or no thread is to be had.
    pub fn start(upstream: SocketAddr, network: Network, script: impl Script + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            script: Box::new(script),
            up: Budget::new(network.bytes_per_second),
            down: Budget::new(network.bytes_per_second),
            network,
            log: Mutex::default(),
            first_listings: Mutex::default(),
            sockets: Mutex::default(),
            stopped: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = thread::Builder::new().name("proxy".into()).spawn(move || accept(&listener, &accepting))?;
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many requests it has seen.
    pub fn requests(&self) -> u64 {
        locked(&self.shared.log).len() as u64
    }

    /// Returns the requests it has seen, in the order of their numbers.
    pub fn log(&self) -> Vec<Seen> {
        locked(&self.shared.log).clone()
    }

    /// Returns what it has seen by method.
    pub fn counts(&self) -> BTreeMap<String, Count> {
        let mut counts = BTreeMap::<String, Count>::new();
        for seen in locked(&self.shared.log).iter() {
            let count = counts.entry(seen.method.clone()).or_default();
            count.requests += 1;
            count.request_bytes += seen.request_bytes;
            count.response_bytes += seen.response_bytes;
        }
        counts
    }
}

impl Drop for Proxy {
    /// Ends all connections. Where a script panicked, this goes on with the panic.
    fn drop(&mut self) {
        self.shared.stop();
        // the acceptor waits for a connection; where this one fails, others are waiting to be accepted
        let _woken = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let Some(Err(panic)) = self.acceptor.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Shared) {
    thread::scope(|scope| {
        while !locked(&shared.sockets).stopping {
            match listener.accept() {
                Ok((stream, _)) => drop(scope.spawn(move || Connection::serve_all(shared, stream))),
                // too many files are open, most likely; a connection that ends makes room
                Err(_) => drop(shared.pause(Duration::from_millis(10))),
            }
        }
    });
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all connections of a proxy have in common.
struct Shared {
    upstream: SocketAddr,
    network: Network,
    script: Box<dyn Script>,
    up: Budget,
    down: Budget,
    log: Mutex<Vec<Seen>>,
    /// By target, as the server sent them.
    first_listings: Mutex<HashMap<String, (Answer, Vec<u8>)>>,
    sockets: Mutex<Sockets>,
    stopped: Condvar,
}

#[derive(Default)]
struct Sockets {
    stopping: bool,
    open: Vec<Weak<TcpStream>>,
}

impl Shared {
    /// Makes a stream one that ends when the proxy stops.
    fn adopt(&self, stream: TcpStream) -> io::Result<Wire> {
        stream.set_nodelay(true)?;
        let stream = Arc::new(stream);
        let mut sockets = locked(&self.sockets);
        if sockets.stopping {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        sockets.open.retain(|socket| socket.strong_count() > 0);
        sockets.open.push(Arc::downgrade(&stream));
        Ok(Wire {
            reader: BufReader::with_capacity(PIECE_BYTES, Socket(Arc::clone(&stream))),
            writer: BufWriter::new(Socket(stream)),
        })
    }

    fn stop(&self) {
        let mut sockets = locked(&self.sockets);
        sockets.stopping = true;
        for socket in sockets.open.iter().filter_map(Weak::upgrade) {
            // it fails where the other side has already ended the connection
            let _ended = socket.shutdown(Shutdown::Both);
        }
        self.stopped.notify_all();
    }

    /// Waits, and fails as soon as the proxy stops.
    fn pause(&self, time: Duration) -> io::Result<()> {
        let sockets = locked(&self.sockets);
        let (sockets, _) = self
            .stopped
            .wait_timeout_while(sockets, time, |sockets| !sockets.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        if sockets.stopping { Err(ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// Waits until a direction has carried so many bytes more.
    fn carry(&self, direction: &Budget, bytes: usize) -> io::Result<()> {
        direction.reserve(bytes).map_or(Ok(()), |at| self.pause(at.saturating_duration_since(Instant::now())))
    }

    fn note_arrival(&self, head: &Head) -> usize {
        let mut log = locked(&self.log);
        log.push(Seen { method: head.method.clone(), target: head.target.clone(), ..Seen::default() });
        log.len() - 1
    }

    fn note(&self, visit: &Visit, change: impl FnOnce(&mut Seen)) {
        change(&mut locked(&self.log)[visit.number]);
    }

    fn note_fault(&self, visit: &Visit) {
        self.note(visit, |seen| seen.fault.clone_from(&visit.fault));
    }
}

/// The bandwidth of one direction.
struct Budget {
    bytes_per_second: Option<u64>,
    free_at: Mutex<Instant>,
}

impl Budget {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Returns when so many bytes will have gone through, after all that was reserved before. The time does not depend
    /// on when the threads that wait for it wake up, so that their lateness does not add up.
    fn reserve(&self, bytes: usize) -> Option<Instant> {
        let bytes_per_second = self.bytes_per_second?.max(1);
        let now = Instant::now();
        let mut free_at = locked(&self.free_at);
        let from = now.checked_sub(LATENESS).map_or(now, |earliest| free_at.max(earliest));
        *free_at = from + Duration::from_nanos(bytes as u64 * 1_000_000_000 / bytes_per_second);
        Some(*free_at)
    }
}

/// A connection to one side.
struct Wire {
    reader: BufReader<Socket>,
    writer: BufWriter<Socket>,
}

struct Socket(Arc<TcpStream>);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    fn stream(&self) -> &TcpStream {
        &self.reader.get_ref().0
    }

    /// Tells whether the other side has neither closed the connection nor sent anything that nobody asked for.
    fn is_idle(&self) -> bool {
        let stream = self.stream();
        let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
        let blocks = matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock);
        stream.set_nonblocking(false).is_ok() && blocks && self.reader.buffer().is_empty()
    }

    fn send(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        self.writer.write_all(head)?;
        self.writer.write_all(body)?;
        self.writer.flush()
    }

    /// Reads the head of the answer to a request. Interim ones are left out: the proxy sends what is expected itself.
    fn read_answer(&mut self, method: &str) -> io::Result<Answer> {
        loop {
            let head = read_head(&mut self.reader)?.ok_or(ErrorKind::ConnectionAborted)?;
            let answer = Answer::parse(&head, method)?;
            if answer.status >= 200 {
                return Ok(answer);
            }
        }
    }
}

/// What becomes of a client's connection after a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Request,
    Close,
    Reset,
}

/// A request that is being served.
struct Visit {
    number: usize,
    head: Head,
    fault: Option<Fault>,
}

impl Visit {
    fn request(&self) -> Request<'_> {
        Request { number: self.number as u64, method: &self.head.method, target: &self.head.target }
    }

    fn next(&self) -> Next {
        if self.head.keeps_alive { Next::Request } else { Next::Close }
    }
}

/// A client's connection, and the one to the server that goes with it.
struct Connection<'a> {
    shared: &'a Shared,
    client: Wire,
    upstream: Option<Wire>,
}

impl<'a> Connection<'a> {
    fn serve_all(shared: &'a Shared, stream: TcpStream) {
        let Ok(client) = shared.adopt(stream) else { return };
        if shared.network.connect && shared.pause(shared.network.latency).is_err() {
            return;
        }
        let mut connection = Self { shared, client, upstream: None };
        loop {
            match connection.serve() {
                Ok(Next::Request) => {}
                // what one side did wrong or failed to do, the other one learns from the end of its connection
                Ok(Next::Close) | Err(_) => return,
                Ok(Next::Reset) => {
                    // where it cannot be set, the connection ends all the same, only more politely
                    let _set = set_socket_linger(connection.client.stream(), Some(Duration::ZERO));
                    return;
                }
            }
        }
    }

    fn serve(&mut self) -> io::Result<Next> {
        let shared = self.shared;
        let Some(bytes) = read_head(&mut self.client.reader)? else { return Ok(Next::Close) };
        let head = Head::parse(bytes)?;
        let number = shared.note_arrival(&head);
        let mut visit = Visit { number, head, fault: None };
        visit.fault = shared.script.fault(&visit.request());
        shared.carry(&shared.up, visit.head.bytes.len())?;
        shared.pause(shared.network.latency)?;
        if let Some(Fault::Slow(time)) = visit.fault {
            shared.note_fault(&visit);
            shared.pause(time)?;
        }
        if visit.fault == Some(Fault::ResetBefore) {
            shared.note_fault(&visit);
            return Ok(Next::Reset);
        }
        if visit.head.expects_continue {
            self.client.send(b"HTTP/1.1 100 Continue\r\n\r\n", &[])?;
        }
        let without_server = match visit.fault {
            Some(Fault::Status(status)) => Some(Answer::error(&visit.head.method, status)),
            Some(Fault::StaleListing) => locked(&shared.first_listings).get(&visit.head.target).cloned(),
            _ => None,
        };
        if let Some((answer, body)) = without_server {
            shared.note_fault(&visit);
            self.receive_body(&visit, |_| ())?;
            return self.send_answer(&visit, &answer, &body, body.len());
        }
        let answer = self.ask_server(&visit)?;
        self.pass_on(&visit, answer)
    }

    /// Sends a request to the server, as it comes in, and reads the head of the answer.
    fn ask_server(&mut self, visit: &Visit) -> io::Result<Answer> {
        let is_duplicate = visit.fault == Some(Fault::Duplicate);
        let keeps_body = is_duplicate || matches!(visit.head.framing, Framing::Length(0..=SMALL_BODY_BYTES));
        let kept = self.upstream.take().filter(Wire::is_idle);
        let is_kept = kept.is_some();
        let mut wire = kept.map_or_else(|| self.connect(), Ok)?;
        let mut body = Vec::new();
        let mut sent = wire.writer.write_all(&visit.head.bytes);
        self.receive_body(visit, |bytes| {
            if keeps_body {
                body.extend_from_slice(bytes);
            }
            // a server that has heard enough may answer and close; the client learns that after it has sent all
            if sent.is_ok() {
                sent = wire.writer.write_all(bytes);
            }
        })?;
        let sent = sent.and_then(|()| wire.writer.flush());
        let mut answer = match wire.read_answer(&visit.head.method) {
            // the server was just closing the connection, most likely, and has not looked at the request
            Err(error) if is_kept && keeps_body && is_end_of_connection(&error) => self.ask_again(visit, &body)?,
            answer => {
                self.upstream = Some(wire);
                answer?
            }
        };
        answer.keeps_alive &= sent.is_ok();
        if is_duplicate {
            self.shared.note_fault(visit);
            self.read_body(&answer)?;
            return self.ask_again(visit, &body);
        }
        Ok(answer)
    }

    fn ask_again(&mut self, visit: &Visit, body: &[u8]) -> io::Result<Answer> {
        let mut wire = self.connect()?;
        wire.send(&visit.head.bytes, body)?;
        let answer = wire.read_answer(&visit.head.method)?;
        self.upstream = Some(wire);
        Ok(answer)
    }

    fn connect(&self) -> io::Result<Wire> {
        self.shared.adopt(TcpStream::connect(self.shared.upstream)?)
    }

    /// Passes on the server's answer, whose head has been read, as far as the fault allows it.
    fn pass_on(&mut self, visit: &Visit, mut answer: Answer) -> io::Result<Next> {
        use Fault::{CutBody, LongBody, ShortBody, TruncatedListing, WrongByte};
        let shared = self.shared;
        if visit.fault == Some(Fault::LostAnswer) {
            self.read_body(&answer)?;
            shared.note_fault(visit);
            return Ok(Next::Reset);
        }
        let is_first = answer.status == 200
            && visit.request().is_listing()
            && !locked(&shared.first_listings).contains_key(&visit.head.target);
        let needs_body =
            is_first || matches!(visit.fault, Some(CutBody(_) | ShortBody | LongBody | WrongByte | TruncatedListing));
        if answer.framing == Framing::Length(0) || !needs_body {
            return self.stream_answer(visit, &answer);
        }
        let mut body = self.read_body(&answer)?;
        answer.set_length(body.len());
        if is_first {
            let mut listings = locked(&shared.first_listings);
            listings.entry(visit.head.target.clone()).or_insert_with(|| (answer.clone(), body.clone()));
        }
        let arriving = match visit.fault.as_ref().and_then(|fault| altered(fault, &visit.request(), &body)) {
            Some(altered) => {
                shared.note_fault(visit);
                body = altered.body;
                altered.arriving_bytes
            }
            None => body.len(),
        };
        answer.set_length(body.len());
        self.send_answer(visit, &answer, &body, arriving)
    }

    fn stream_answer(&mut self, visit: &Visit, answer: &Answer) -> io::Result<Next> {
        let mut wire = self.upstream.take().ok_or(ErrorKind::NotConnected)?;
        let next = if answer.framing == Framing::UntilClose { Next::Close } else { visit.next() };
        self.send_head(visit, answer, next)?;
        each_piece(&mut wire.reader, answer.framing, &mut |bytes, content| self.send(visit, bytes, content))?;
        self.client.writer.flush()?;
        self.upstream = answer.keeps_alive.then_some(wire);
        Ok(next)
    }

    fn send_answer(&mut self, visit: &Visit, answer: &Answer, body: &[u8], arriving: usize) -> io::Result<Next> {
        self.send_head(visit, answer, visit.next())?;
        for bytes in body[..arriving].chunks(PIECE_BYTES) {
            self.send(visit, bytes, bytes.len())?;
        }
        self.client.writer.flush()?;
        Ok(if arriving < body.len() { Next::Reset } else { visit.next() })
    }

    /// Reads the content of the answer's body. After that the connection to the server is free again.
    fn read_body(&mut self, answer: &Answer) -> io::Result<Vec<u8>> {
        let mut wire = self.upstream.take().ok_or(ErrorKind::NotConnected)?;
        let mut body = Vec::new();
        each_piece(&mut wire.reader, answer.framing, &mut |bytes, content_bytes| {
            body.extend_from_slice(&bytes[..content_bytes]);
            Ok(())
        })?;
        self.upstream = answer.keeps_alive.then_some(wire);
        Ok(body)
    }

    /// Reads the body of a request, as it is on the wire.
    fn receive_body(&mut self, visit: &Visit, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let shared = self.shared;
        each_piece(&mut self.client.reader, visit.head.framing, &mut |bytes, content_bytes| {
            shared.carry(&shared.up, bytes.len())?;
            shared.note(visit, |seen| seen.request_bytes += content_bytes as u64);
            take(bytes);
            Ok(())
        })
    }

    fn send_head(&mut self, visit: &Visit, answer: &Answer, next: Next) -> io::Result<()> {
        self.shared.note(visit, |seen| seen.status = Some(answer.status));
        self.send(visit, &answer.bytes(next == Next::Close), 0)
    }

    fn send(&mut self, visit: &Visit, bytes: &[u8], content_bytes: usize) -> io::Result<()> {
        self.shared.carry(&self.shared.down, bytes.len())?;
        self.shared.note(visit, |seen| seen.response_bytes += content_bytes as u64);
        self.client.writer.write_all(bytes)
    }
}

fn is_end_of_connection(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// A body as the head announces it, and how much of it arrives.
struct Altered {
    body: Vec<u8>,
    arriving_bytes: usize,
}

/// Returns what a fault makes of a body; nothing where it stays as it is.
fn altered(fault: &Fault, request: &Request<'_>, body: &[u8]) -> Option<Altered> {
    let (last, middle) = (body.len().checked_sub(1)?, body.len() / 2);
    let mut altered = body.to_vec();
    match fault {
        Fault::CutBody(part) => {
            return Some(Altered { body: altered, arriving_bytes: part.of(body.len()).min(last) });
        }
        Fault::ShortBody => altered.truncate(body.len().saturating_sub(WRONG_BYTES)),
        Fault::LongBody => altered.extend([0; WRONG_BYTES]),
        Fault::WrongByte => altered[middle] ^= 1,
        Fault::TruncatedListing if request.is_listing() => altered = truncated(std::str::from_utf8(body).ok()?).into(),
        _ => {}
    }
    (altered != body).then_some(Altered { arriving_bytes: altered.len(), body: altered })
}

/// Removes the latter half of a listing's entries, and all that tells of more. In a key, `<` is written otherwise.
fn truncated(listing: &str) -> String {
    let name = if listing.contains("<ListBucketResult") { "Contents" } else { "Blob" };
    let mut xml = listing.to_owned();
    let starts: Vec<usize> = xml.match_indices(&format!("<{name}>")).map(|(start, _)| start).collect();
    let kept = starts.len() / 2;
    for start in starts[kept..].iter().rev() {
        // common prefixes may lie between entries, so these go one by one
        if let Some(entry) = element(&xml[*start..], name) {
            xml.replace_range(start + entry.start..start + entry.end, "");
        }
    }
    replace(&mut xml, "NextContinuationToken", |_| String::new());
    replace(&mut xml, "NextMarker", |_| "<NextMarker></NextMarker>".to_owned());
    replace(&mut xml, "IsTruncated", |_| "<IsTruncated>false</IsTruncated>".to_owned());
    replace(&mut xml, "KeyCount", |old| {
        let count = old.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(starts.len());
        format!("<KeyCount>{}</KeyCount>", count.saturating_sub(starts.len() - kept))
    });
    xml
}

fn replace(xml: &mut String, name: &str, new: impl FnOnce(&str) -> String) {
    if let Some(range) = element(xml, name) {
        let new = new(&xml[range.clone()]);
        xml.replace_range(range, &new);
    }
}

fn element(xml: &str, name: &str) -> Option<Range<usize>> {
    let end_tag = format!("</{name}>");
    let start = xml.find(&format!("<{name}>"))?;
    let length = xml[start..].find(&end_tag)?;
    Some(start..start + length + end_tag.len())
}

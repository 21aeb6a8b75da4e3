//! The socket options that the standard library does not have.

use std::io;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

/// What TCP counted on a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    pub segments_out: u64,
    pub retransmitted: u64,
}

/// Where `struct tcp_info` of Linux has them; fields are only ever added at its end.
const TOTAL_RETRANS: usize = 100;
const SEGS_OUT: usize = 136;

pub fn counted(stream: &TcpStream) -> io::Result<Counted> {
    let mut info = [0u8; 256];
    let length = get(stream, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    let field = |at: usize| match info[..length].get(at..at + 4) {
        Some(&[a, b, c, d]) => Ok(u64::from(u32::from_ne_bytes([a, b, c, d]))),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel does not count segments")),
    };
    Ok(Counted { segments_out: field(SEGS_OUT)?, retransmitted: field(TOTAL_RETRANS)? })
}

/// Datagrams leave whole or not at all, whatever the kernel believes of the path.
pub fn never_fragment(socket: &UdpSocket) -> io::Result<()> {
    if socket.peer_addr()?.is_ipv4() {
        set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    } else {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    }
}

/// Of the interface over which a connected socket sends, or of the path where the kernel has learned of a smaller one.
pub fn mtu(socket: &UdpSocket) -> io::Result<usize> {
    let mut value = [0u8; 4];
    let (level, name) = if socket.peer_addr()?.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    };
    get(socket, level, name, &mut value)?;
    usize::try_from(i32::from_ne_bytes(value)).map_err(io::Error::other)
}

fn get(socket: &impl AsRawFd, level: i32, name: i32, into: &mut [u8]) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(into.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes into a buffer that has as many.
    let answer =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, into.as_mut_ptr().cast(), &raw mut length) };
    if answer == 0 { Ok(into.len().min(length as usize)) } else { Err(io::Error::last_os_error()) }
}

fn set(socket: &impl AsRawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads the four bytes of an integer that lives until it answers.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

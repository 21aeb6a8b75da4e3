//! One TCP connection: frames in, responses out in request order.

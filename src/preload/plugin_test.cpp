// SPDX-License-Identifier: Apache-2.0
// What preload_test loads with RTLD_LOCAL: calls what only a library of its own has.
struct iocb;
struct io_uring;
extern "C" {
int io_submit(unsigned long context, long count, iocb** requests);
int io_uring_submit(io_uring* ring);
[[gnu::weak]] int io_uring_submit_and_get_events(io_uring* ring);

// A jump, behind which nobody sees who called.
int submit_aio() { return io_submit(0, 0, nullptr); }
int submit_ring() {
  unsigned long ring[64] = {};
  return io_uring_submit(reinterpret_cast<io_uring*>(ring));
}
int submit_to_nobody() {
  unsigned long ring[64] = {};
  return io_uring_submit_and_get_events(reinterpret_cast<io_uring*>(ring));
}
}

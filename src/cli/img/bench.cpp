// SPDX-License-Identifier: Apache-2.0
// img bench: so many reads or writes, so many at a time, through the same asynchronous path that a machine's disk takes.
#include <chrono>
#include <cstdio>
#include <cstring>

#include "base/event_loop.h"
#include "cli/img/img.h"
#include "storage/image_device.h"

namespace vireo::cli::img {

Result<int> bench(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "c:d:f:ni:o:qs:S:t:wU", {"pattern:", "flush-interval:", "no-drain", "image-opts", "force-share=U"}));
  if (a.names.size() != 1) return fail(ErrorKind::kInvalid, "Expecting one image file name");
  auto number = [&](const char* option, uint64_t otherwise) -> Result<uint64_t> { return a.has(option) ? parse_bytes(a.get(option)) : otherwise; };
  uint64_t count = TRY(number("c", 75000)), depth = TRY(number("d", 64)), offset = TRY(number("o", 0)), size = TRY(number("s", 4096));
  uint64_t step = TRY(number("S", 0)), pattern = TRY(number("pattern", 0)), flush_every = TRY(number("flush-interval", 0));
  const bool write = a.has("w");
  if (size == 0 || depth == 0 || depth > 65536 || size > (1 << 30)) return fail(ErrorKind::kInvalid, "Invalid buffer size or queue depth specified");
  if (!write && flush_every) return fail(ErrorKind::kInvalid, "--flush-interval is only available in write tests");
  if (step == 0) step = size;
  OpenWish wish{.format = a.get("f"), .writable = write, .force_share = a.has("U"), .cache = a.get("t", "writeback"), .image_options = a.has("image-opts")};
  auto image = TRY(img::open(a.names[0], wish));
  auto loop = TRY(EventLoop::create());
  storage::Aio aio = a.get("i") == "threads" ? storage::Aio::kThreads : storage::Aio::kAuto;
  bool direct = wish.cache == "none" || wish.cache == "directsync";
  auto device = TRY(storage::ImageDevice::create(image, {.direct = direct, .aio = aio}, *loop));
  const uint64_t end = device->size();
  if (size > end) return fail(ErrorKind::kInvalid, "the image is smaller than one request");
  printf("Sending %llu %s requests, %llu bytes each, %llu in parallel (starting at offset %llu, step size %llu)\n", static_cast<unsigned long long>(count),
         write ? "write" : "read", static_cast<unsigned long long>(size), static_cast<unsigned long long>(depth), static_cast<unsigned long long>(offset),
         static_cast<unsigned long long>(step));
  if (flush_every) printf("Sending flush every %llu requests\n", static_cast<unsigned long long>(flush_every));
  std::unique_ptr<std::byte, decltype(&free)> memory(static_cast<std::byte*>(aligned_alloc(4096, (size * depth + 4095) / 4096 * 4096)), &free);
  if (!memory) return fail(ErrorKind::kIo, "no memory for the buffers", ENOMEM);
  memset(memory.get(), static_cast<int>(pattern), size * depth);
  uint64_t started = 0, finished = 0;
  int error = 0;
  std::vector<unsigned> free_slots;
  for (unsigned i = 0; i < depth; ++i) free_slots.push_back(i);
  auto begin = std::chrono::steady_clock::now();
  auto start_some = [&] {
    while (!free_slots.empty() && started < count && !error) {
      unsigned slot = free_slots.back();
      free_slots.pop_back();
      if (offset + size > end) offset = offset % end + size > end ? 0 : offset % end;
      iovec one = storage::part(memory.get() + slot * size, size);
      auto done = [&, slot](int code) {
        if (code && !error) error = code;
        free_slots.push_back(slot);
        ++finished;
      };
      ++started;
      write ? device->write(offset, {&one, 1}, done) : device->read(offset, {&one, 1}, done);
      offset += step;
      if (flush_every && started % flush_every == 0) device->flush([&](int code) {
        if (code && !error) error = code;
      });
    }
    device->submit();
  };
  while (finished < started || (started < count && !error)) {
    start_some();
    if (finished < started && (free_slots.empty() || started == count)) loop->step(-1);
  }
  device->drain();
  if (error) return fail(ErrorKind::kIo, std::string("Failed request: ") + strerror(error), error);
  std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  printf("Run completed in %3.3f seconds.\n", took.count());
  device.reset();
  TRY_VOID(image->close());
  return 0;
}

}  // namespace vireo::cli::img

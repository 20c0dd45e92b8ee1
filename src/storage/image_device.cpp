// SPDX-License-Identifier: Apache-2.0
#include "storage/image_device.h"

#include <pthread.h>

#include <algorithm>
#include <iterator>

#include "base/log.h"

namespace vireo::storage {

Result<std::unique_ptr<ImageDevice>> ImageDevice::create(std::shared_ptr<Image> image, const Config& config, EventLoop& loop) {
  std::unique_ptr<ImageDevice> device(new ImageDevice(std::move(image), loop));
  device->config_ = config;
  TRY_VOID(device->take_files());
  device->most_threads_ = std::max(config.threads, 1u);
  std::lock_guard lock(device->mutex_);
  TRY_VOID(device->start_thread());  // later ones may fail: this one does all then
  return device;
}

// The lock is held.
Result<> ImageDevice::start_thread() {
  try {
    threads_.emplace_back([this] { serve(); });
  } catch (const std::system_error& error) {
    return fail(ErrorKind::kIo, std::string("image threads: ") + error.what(), error.code().value());
  }
  pthread_setname_np(threads_.back().native_handle(), "vireo-image");
  return {};
}

// One Raw for each file of the chain that has a descriptor.
Result<> ImageDevice::take_files() {
  block_ = 1;
  for (Image* layer = image_.get(); layer; layer = layer->backing()) {
    File* file = &layer->data_file();
    if (file->fd() < 0) continue;
    RawConfig raw{.path = file->name(), .read_only = file->read_only(), .direct = config_.direct, .no_flush = true, .lock = false, .fd = file->fd(), .aio = config_.aio};
    files_[file] = TRY(Raw::create(raw, loop_));
    block_ = std::max(block_, files_[file]->block());
  }
  small_units_ = image_->cluster_size() && image_->write_unit() < block_;
  return {};
}

void ImageDevice::image_changed() {
  files_.clear();
  // What has none is read and written by the threads.
  if (auto taken = take_files(); !taken) log(LogLevel::kWarning, "disk: %s", taken.error().message.c_str());
}

ImageDevice::~ImageDevice() {
  drain();
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  work_.notify_all();
  for (auto& thread : threads_) thread.join();
  *alive_ = false;
  if (auto closed = image_->close(); !closed) log(LogLevel::kError, "disk: closing: %s", closed.error().message.c_str());
}

Limits ImageDevice::limits() const {
  Limits limits;
  limits.discard = !image_->read_only();
  limits.discard_unit = static_cast<uint32_t>(image_->cluster_size());
  return limits;
}

ImageDevice::Request* ImageDevice::take(Done done) {
  if (free_.empty()) {
    requests_.push_back(std::make_unique<Request>());
    free_.push_back(requests_.back().get());
  }
  Request* request = free_.back();
  free_.pop_back();
  request->done = std::move(done);
  request->parts_left = 1;
  request->error = 0;
  request->segments.clear();
  request->from = request->to = 0;
  ++active_;
  return request;
}

void ImageDevice::part_done(Request* request, int error) {
  if (error && !request->error) request->error = error;
  if (--request->parts_left > 0) return;
  request->hold = {};
  Done done = std::move(request->done);
  int result = request->error;
  if (request->to && request->partial) --partial_active_;
  request->to = 0;
  free_.push_back(request);
  --active_;
  done(result);
  if (!held_.empty()) let_go();
}

// A write that begins now, or has to wait for one that overlaps.
bool ImageDevice::must_wait(Request* request, uint64_t offset, uint64_t length) {
  if (!config_.direct) return false;
  const uint64_t end = offset + length;
  const bool partial = small_units_ || (offset | length) % block_;
  if ((partial || partial_active_) && std::ranges::any_of(requests_, [&](auto& r) { return r->from < end && offset < r->to && (partial || r->partial); })) return true;
  request->from = offset;
  request->to = end;
  request->partial = partial;
  partial_active_ += partial;
  return false;
}

void ImageDevice::let_go() {
  bool any = false;
  for (size_t i = 0; i < held_.size();) {
    if (must_wait(held_[i].request, held_[i].offset, held_[i].length)) {
      ++i;
      continue;
    }
    auto go = std::move(held_[i].go);
    held_.erase(held_.begin() + static_cast<ptrdiff_t>(i));
    go();
    any = true;
  }
  if (any)
    loop_.post([this, alive = alive_] {
      if (*alive) submit();
    });
}

void ImageDevice::move(uint64_t offset, std::span<const iovec> parts, bool write, Done done) {
  Request* request = take(std::move(done));
  uint64_t length = total(parts), size = this->size();
  if (offset > size || length > size - offset || (write && read_only())) {
    ready_.emplace_back(request, write && read_only() ? EROFS : EIO);
    return;
  }
  if (length == 0) return void(ready_.emplace_back(request, 0));
  if (write && must_wait(request, offset, length))
    return void(held_.push_back({request, offset, length, [this, request, offset, copy = Parts(parts.begin(), parts.end())] { begin(request, offset, copy, true); }}));
  begin(request, offset, parts, write);
}

void ImageDevice::begin(Request* request, uint64_t offset, std::span<const iovec> parts, bool write) {
  const uint64_t length = total(parts);
  bool direct = image_->locate(offset, length, write, request->segments, request->hold);
  if (direct)
    direct = std::ranges::all_of(request->segments, [&](const Segment& s) { return !s.file || files_.contains(s.file); });
  // A write of less than a block reads and changes all of it. The file itself, which does that for the threads and the format, must do it
  // for everybody: what another one excludes it would not know of.
  if (direct && write && config_.direct)
    direct = std::ranges::none_of(request->segments, [&](const Segment& s) { return s.file && (s.host | s.length) % files_[s.file]->block(); });
  if (!direct) {
    request->hold = {};
    if (!write && image_->read_now(offset, parts)) return void(ready_.emplace_back(request, 0));
    Parts copy(parts.begin(), parts.end());
    return slowly(request, [this, offset, write, copy = std::move(copy)]() -> Result<> {
      return write ? image_->write(offset, copy) : image_->read(offset, std::span<const iovec>(copy));
    }, write ? UINT64_MAX : offset);
  }
  // One part more than there are, so that it cannot end in here.
  request->parts_left = static_cast<unsigned>(request->segments.size()) + 1;
  uint64_t at = 0;
  for (const Segment& s : request->segments) {
    Parts cut;
    std::span<const iovec> piece = parts;
    if (request->segments.size() > 1) cut = slice(parts, at, s.length), piece = cut;
    at += s.length;
    auto part_end = [this, request](int error) { part_done(request, error); };
    if (!s.file) {
      fill_zero(piece);
      --request->parts_left;
    } else if (write) {
      files_[s.file]->write(s.host, piece, part_end);
    } else {
      files_[s.file]->read(s.host, piece, part_end);
    }
  }
  if (--request->parts_left == 0) {
    request->parts_left = 1;
    ready_.emplace_back(request, 0);
  }
}

void ImageDevice::flush(Done done) {
  Request* request = take(std::move(done));
  if (read_only()) return void(ready_.emplace_back(request, 0));
  slowly(request, [this] { return image_->flush(); });
}

void ImageDevice::discard(uint64_t offset, uint64_t length, Done done) {
  Request* request = take(std::move(done));
  if (offset > size() || length > size() - offset) return void(ready_.emplace_back(request, EIO));
  slowly(request, [this, offset, length] { return image_->discard(offset, length); });
}

void ImageDevice::write_zeroes(uint64_t offset, uint64_t length, bool may_unmap, Done done) {
  Request* request = take(std::move(done));
  if (offset > size() || length > size() - offset) return void(ready_.emplace_back(request, EIO));
  auto go = [this, request, offset, length, may_unmap] { slowly(request, [this, offset, length, may_unmap] { return image_->write_zeroes(offset, length, may_unmap); }); };
  if (length && must_wait(request, offset, length)) return void(held_.push_back({request, offset, length, go}));
  go();
}

void ImageDevice::slowly(Request* request, std::function<Result<>()> work, uint64_t read_offset) {
  new_jobs_.push_back({request, std::move(work), read_offset});
}

// All at once, so that jobs that belong together are seen together. One thread is woken; it wakes the next one, or starts one, if it
// leaves something.
void ImageDevice::send() {
  if (new_jobs_.empty()) return;
  {
    std::lock_guard lock(mutex_);
    std::ranges::move(new_jobs_, std::back_inserter(jobs_));
  }
  new_jobs_.clear();
  work_.notify_one();
}

void ImageDevice::serve() {
  std::vector<Job> mine;
  std::vector<std::pair<Request*, int>> done;
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_;
    work_.wait(lock, [&] { return ending_ || !jobs_.empty(); });
    --idle_;
    if (jobs_.empty()) return;
    mine.push_back(std::move(jobs_.front()));
    jobs_.pop_front();
    if (uint64_t together = image_->read_together(); together && mine[0].read_offset != UINT64_MAX) {
      const uint64_t stretch = mine[0].read_offset / together;
      while (!jobs_.empty() && jobs_.front().read_offset != UINT64_MAX && jobs_.front().read_offset / together == stretch) {
        mine.push_back(std::move(jobs_.front()));
        jobs_.pop_front();
      }
    }
    const bool more = !jobs_.empty();
    if (more && idle_ == 0 && threads_.size() < most_threads_ && !start_thread()) most_threads_ = static_cast<unsigned>(threads_.size());
    lock.unlock();
    if (more) work_.notify_one();
    for (Job& job : mine) {
      auto result = job.work();
      done.emplace_back(job.request, result ? 0 : result.error().code ? result.error().code : EIO);
    }
    mine.clear();
    lock.lock();
    std::ranges::move(done, std::back_inserter(done_));
    done.clear();
    finished_.notify_one();
    if (std::exchange(posted_, true)) continue;
    loop_.post([this, alive = alive_] {
      if (*alive) reap();
    });
  }
}

void ImageDevice::reap() {
  std::vector<std::pair<Request*, int>> done;
  {
    std::lock_guard lock(mutex_);
    posted_ = false;
    done.swap(done_);
  }
  for (auto& [request, error] : done) part_done(request, error);
  // Callbacks may have asked for more.
  if (!done.empty()) submit();
}

void ImageDevice::submit() {
  send();
  for (auto& [file, raw] : files_) raw->submit();
  auto ready = std::exchange(ready_, {});
  for (auto& [request, error] : ready) part_done(request, error);
}

void ImageDevice::drain() {
  while (active_ > 0) {
    submit();
    for (auto& [file, raw] : files_) raw->drain();
    if (active_ == 0) break;
    send();  // what their end has let go
    bool waits;
    {
      std::unique_lock lock(mutex_);
      waits = ready_.empty() && done_.empty();
      // Whatever is still active then is a thread's.
      if (waits) finished_.wait(lock, [&] { return !done_.empty(); });
    }
    reap();
  }
}

}  // namespace vireo::storage

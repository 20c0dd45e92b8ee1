// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <thread>

#include "cli/img/convert.h"

namespace vireo::cli::img {
namespace {

constexpr uint64_t kPiece = 2 << 20;

class Copier {
 public:
  explicit Copier(CopyJob& job) : job_(job) {
    for (auto& s : job_.sources) size_ += s->size();
    // A piece of compressed data is one cluster of the target.
    piece_ = job_.compressed ? std::max<uint64_t>(job_.target->cluster_size(), 512) : std::max<uint64_t>(kPiece, job_.target->cluster_size());
  }

  Result<> run() {
    unsigned count = job_.threads ? job_.threads : std::clamp(std::thread::hardware_concurrency(), 2u, 16u);
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < count; ++i) threads.emplace_back([this] { work(); });
    for (auto& t : threads) t.join();
    if (failed_) return std::unexpected(error_);
    return {};
  }

 private:
  struct Piece {
    uint64_t turn = 0, at = 0, length = 0;
    enum class Kind { kData, kZero, kSkip } kind = Kind::kData;
  };

  // The next piece of one kind. The lock is held.
  Result<bool> take(Piece& piece) {
    if (at_ >= size_) return false;
    piece.at = at_;
    piece.turn = turns_++;
    uint64_t start = 0;
    for (auto& source : job_.sources) {
      if (at_ >= start + source->size()) {
        start += source->size();
        continue;
      }
      source_ = source.get();
      break;
    }
    uint64_t left = start + source_->size() - at_;
    if (job_.compressed) {
      // Whole clusters, data if any part is.
      piece.length = std::min(piece_, size_ - at_);
      piece.kind = Piece::Kind::kSkip;
      for (uint64_t done = 0; done < piece.length;) {
        Image* s = source_at(at_ + done, start);
        auto extent = TRY(status(*s, at_ + done - start, std::min(piece.length - done, start + s->size() - at_ - done)));
        if (extent.kind == Piece::Kind::kData) piece.kind = Piece::Kind::kData;
        else if (extent.kind == Piece::Kind::kZero && piece.kind == Piece::Kind::kSkip) piece.kind = Piece::Kind::kZero;
        done += extent.length;
      }
    } else {
      auto extent = TRY(status(*source_, at_ - start, left));
      piece.kind = extent.kind;
      piece.length = extent.length;
      // Pieces end where the target's clusters do, so that no two touch one cluster for long.
      if (extent.kind == Piece::Kind::kData && piece.length > piece_ - at_ % piece_) piece.length = piece_ - at_ % piece_;
    }
    at_ += piece.length;
    return true;
  }

  Image* source_at(uint64_t offset, uint64_t& start) {
    start = 0;
    for (auto& source : job_.sources) {
      if (offset < start + source->size()) return source.get();
      start += source->size();
    }
    return nullptr;
  }

  struct Status {
    Piece::Kind kind;
    uint64_t length;
  };
  Result<Status> status(Image& source, uint64_t offset, uint64_t length) {
    auto extent = storage::status_above(source, job_.base, offset, length);
    if (!extent) {
      if (!job_.salvage) return std::unexpected(std::move(extent).error());
      return Status{Piece::Kind::kData, std::min<uint64_t>(length, 65536)};
    }
    if (extent->zero && (job_.sparse || !job_.compressed)) return Status{Piece::Kind::kZero, extent->length};
    if (job_.base && !extent->allocated) {
      // Beyond the base's end its overlay reads zeroes.
      if (offset >= job_.base_size) return Status{Piece::Kind::kZero, extent->length};
      return Status{Piece::Kind::kSkip, std::min(extent->length, job_.base_size - offset)};
    }
    return Status{Piece::Kind::kData, extent->length};
  }

  Result<> read(uint64_t at, std::span<std::byte> to) {
    for (uint64_t done = 0; done < to.size();) {
      uint64_t start;
      Image* source = source_at(at + done, start);
      uint64_t n = std::min(to.size() - done, start + source->size() - at - done);
      auto piece = to.subspan(done, n);
      if (auto got = source->read(at + done - start, piece); !got) {
        if (!job_.salvage) return got;
        for (uint64_t s = 0; s < n; s += 512) {
          auto sector = piece.subspan(s, std::min<uint64_t>(512, n - s));
          if (!source->read(at + done - start + s, sector)) std::ranges::fill(sector, std::byte{0});
        }
      }
      done += n;
    }
    return {};
  }

  void work() {
    std::vector<std::byte> buffer(piece_);
    for (;;) {
      Piece piece;
      {
        std::lock_guard lock(mutex_);
        if (failed_) return;
        auto taken = take(piece);
        if (!taken) return fail_with(taken.error());
        if (!*taken) return;
      }
      auto data = std::span(buffer).first(piece.kind == Piece::Kind::kData ? piece.length : 0);
      std::vector<std::byte> packed;
      Result<> result;
      bool zero = piece.kind == Piece::Kind::kZero;
      if (!data.empty()) {
        result = read(piece.at, data);
        if (result && job_.compressed) {
          zero = job_.sparse && storage::all_zero(data.data(), data.size());
          auto* q = as_qcow2(*job_.target);
          if (!zero && q) {
            if (data.size() < piece_) {
              std::vector<std::byte> whole(piece_);
              memcpy(whole.data(), data.data(), data.size());
              packed = q->compress(whole);
            } else {
              packed = q->compress(data);
            }
          }
        }
      }
      if (!job_.out_of_order) {
        std::unique_lock lock(mutex_);
        turn_changed_.wait(lock, [&] { return failed_ || turn_ == piece.turn; });
        if (failed_) return;
      }
      if (result && piece.kind != Piece::Kind::kSkip) result = write(piece, data, packed, zero);
      std::lock_guard lock(mutex_);
      ++turn_;
      done_ += piece.length;
      if (job_.progress) job_.progress->show(done_, size_);
      if (!result) return fail_with(result.error());
      turn_changed_.notify_all();
    }
  }

  Result<> write_zero(uint64_t at, uint64_t length) {
    if (job_.target_is_zero) return {};
    return job_.target->write_zeroes(at, length, true);
  }

  Result<> write(const Piece& piece, std::span<const std::byte> data, std::span<const std::byte> packed, bool zero) {
    if (zero && job_.sparse == 0 && !job_.compressed) {
      std::vector<std::byte> zeroes(std::min<uint64_t>(piece.length, kPiece));
      for (uint64_t done = 0; done < piece.length; done += zeroes.size())
        TRY_VOID(job_.target->write(piece.at + done, std::span<const std::byte>(zeroes).first(std::min<uint64_t>(zeroes.size(), piece.length - done))));
      return {};
    }
    if (zero) return write_zero(piece.at, piece.length);
    if (job_.compressed) {
      if (!packed.empty()) return as_qcow2(*job_.target)->write_precompressed(piece.at, packed);
      return job_.target->write(piece.at, data);
    }
    if (job_.sparse == 0) return job_.target->write(piece.at, data);
    // Runs of data and of zeroes, in steps of the shortest hole.
    const uint64_t step = std::max<uint64_t>(job_.sparse, 512);
    for (uint64_t done = 0; done < data.size();) {
      auto next = [&](uint64_t from) { return std::min<uint64_t>(data.size(), (piece.at + from) / step * step + step - piece.at); };
      uint64_t end = next(done);
      bool empty = storage::all_zero(&data[done], end - done);
      while (end < data.size()) {
        uint64_t after = next(end);
        if (storage::all_zero(&data[end], after - end) != empty) break;
        end = after;
      }
      TRY_VOID(empty ? write_zero(piece.at + done, end - done) : job_.target->write(piece.at + done, data.subspan(done, end - done)));
      done = end;
    }
    return {};
  }

  // The lock is held.
  void fail_with(Error error) {
    if (!failed_) error_ = std::move(error);
    failed_ = true;
    turn_changed_.notify_all();
  }

  CopyJob& job_;
  uint64_t size_ = 0, piece_ = 0;
  std::mutex mutex_;
  std::condition_variable turn_changed_;
  uint64_t at_ = 0, turns_ = 0, turn_ = 0, done_ = 0;
  Image* source_ = nullptr;
  bool failed_ = false;
  Error error_;
};

}  // namespace

Result<> copy(CopyJob& job) { return Copier(job).run(); }

}  // namespace vireo::cli::img

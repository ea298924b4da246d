// Arrays in a .npz archive as numpy writes it: a zip whose members are stored or deflated .npy files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace spoter::detail {

struct Array {
  std::string type;  // of numpy: "<f4"
  std::vector<size_t> shape;
  std::string content;  // in C order
};

// Throws ValueError: no archive, an array is missing or damaged, or all are larger than `most_bytes`.
std::vector<Array> read_arrays(std::string_view archive, const std::vector<std::string> &names, size_t most_bytes);

// Unpacks raw deflate data (RFC 1951) of a known size; throws ValueError.
std::string inflate(std::string_view packed, size_t size);

}  // namespace spoter::detail

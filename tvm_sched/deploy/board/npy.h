// NumPy's .npy files of numbers in C order (format: numpy.lib.format's documentation, version 1.0).
#pragma once

#include <sys/stat.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace npy {

inline size_t volume(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), size_t{1}, [](size_t product, int64_t extent) { return product * static_cast<size_t>(extent); });
}

// Bytes of a number of NumPy's type: 4 of "<f4".
inline size_t width(const std::string& dtype) { return std::strtoul(dtype.c_str() + 2, nullptr, 10); }

struct Array {
  std::vector<int64_t> shape;
  std::string dtype = "<f4";  // as NumPy writes it: kind and bytes; bfloat16 is "<V2", which NumPy makes of ml_dtypes' type
  std::vector<char> bytes;

  size_t count() const { return bytes.size() / width(dtype); }
  double number(size_t place) const;
};

template <typename T>
double number_at(const char* start) {
  T value;
  std::memcpy(&value, start, sizeof value);
  return static_cast<double>(value);
}

// A number of 1 sign bit, some bits of exponent, and the rest.
inline double small_float(uint16_t bits, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits & 0x7fff) >> fraction_bits, fraction = bits & ((1 << fraction_bits) - 1);
  double size;
  if (exponent == (1 << exponent_bits) - 1) {
    size = fraction ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  } else {
    size = exponent ? std::ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits) : std::ldexp(fraction, 1 - bias - fraction_bits);
  }
  return bits & 0x8000 ? -size : size;
}

inline double Array::number(size_t place) const {
  const size_t size = width(dtype);
  const char* at = bytes.data() + place * size;
  uint16_t half = 0;
  if (size == 2) std::memcpy(&half, at, 2);
  switch (dtype[1]) {
    case 'f': return size == 2 ? small_float(half, 5) : size == 4 ? number_at<float>(at) : number_at<double>(at);
    case 'V': return small_float(half, 8);
    case 'i': return size == 1 ? number_at<int8_t>(at) : size == 2 ? number_at<int16_t>(at) : size == 4 ? number_at<int32_t>(at) : number_at<int64_t>(at);
    default: return size == 1 ? number_at<uint8_t>(at) : size == 2 ? number_at<uint16_t>(at) : size == 4 ? number_at<uint32_t>(at) : number_at<uint64_t>(at);
  }
}

// "1x3x224x224"; "1" of a single number
inline std::string words(const std::vector<int64_t>& shape) {
  std::string text;
  for (int64_t extent : shape) text += (text.empty() ? "" : "x") + std::to_string(extent);
  return text.empty() ? "1" : text;
}

// The text between two others in a file's header, or nothing.
inline std::string between(const std::string& text, const std::string& before, const std::string& after) {
  size_t start = text.find(before);
  if (start == std::string::npos) return "";
  start += before.size();
  return text.substr(start, text.find(after, start) - start);
}

inline std::vector<char> content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("there is no file " + path);
  return std::vector<char>((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

// The array in the bytes of a file; `name` is for errors.
inline Array parsed(const std::vector<char>& all, const std::string& name) {
  if (all.size() < 12 || std::memcmp(all.data(), "\x93NUMPY", 6)) throw std::runtime_error(name + " is not a .npy file");
  auto byte = [&](size_t at) { return static_cast<size_t>(static_cast<unsigned char>(all[at])); };
  size_t length = byte(8) | byte(9) << 8, start = 10;
  if (all[6] > 1) length |= byte(10) << 16 | byte(11) << 24, start = 12;
  if (start + length > all.size()) throw std::runtime_error(name + " is truncated");
  std::string header(all.data() + start, length);
  Array array;
  array.dtype = between(header, "'descr': '", "'");
  if (array.dtype.size() < 3 || !std::strchr("<|", array.dtype[0]) || !std::strchr("fiubV", array.dtype[1]) || !width(array.dtype) || width(array.dtype) > 8)
    throw std::runtime_error(name + " holds '" + array.dtype + "', which are no numbers that networks take");
  if (between(header, "'fortran_order': ", ",") != "False") throw std::runtime_error(name + " is in Fortran's order; save a C-contiguous array");
  std::string extents = between(header, "'shape': (", ")");
  for (const char* at = extents.c_str(); *at;) {
    char* end = nullptr;
    long long extent = std::strtoll(at, &end, 10);
    if (end == at) break;
    array.shape.push_back(extent);
    at = end + std::strspn(end, ", ");
  }
  array.bytes.assign(all.begin() + static_cast<long>(start + length), all.end());
  if (array.bytes.size() != volume(array.shape) * width(array.dtype))
    throw std::runtime_error(name + " is truncated, or has more than its " + words(array.shape) + " numbers");
  return array;
}

inline Array read(const std::string& path) { return parsed(content(path), path); }

// The bytes of a file.
inline std::vector<char> file_of(const Array& array) {
  std::string shape;
  for (int64_t extent : array.shape) shape += std::to_string(extent) + ",";
  std::string header = "{'descr': '" + array.dtype + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header += std::string(63 - (10 + header.size()) % 64, ' ') + "\n";
  std::string start("\x93NUMPY\x01\x00", 8);
  start += {static_cast<char>(header.size() & 255), static_cast<char>(header.size() >> 8)};
  start += header;
  std::vector<char> file(start.begin(), start.end());
  file.insert(file.end(), array.bytes.begin(), array.bytes.end());
  return file;
}

// Replaces an existing file only by a whole one. Follows links, and writes to what is no regular file.
inline void write(const std::string& given, const std::vector<char>& bytes) {
  std::string path = given;
  if (char* real = ::realpath(given.c_str(), nullptr)) {
    path = real;
    std::free(real);
  }
  struct stat there;
  if (!::stat(path.c_str(), &there) && !S_ISREG(there.st_mode)) {
    std::ofstream file(path, std::ios::binary);
    file.write(bytes.data(), static_cast<long>(bytes.size()));
    if (!file.flush()) throw std::runtime_error("cannot write " + given);
    return;
  }
  std::string temporary = path + ".part";
  std::ofstream file(temporary, std::ios::binary);
  file.write(bytes.data(), static_cast<long>(bytes.size()));
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str())) {
    std::remove(temporary.c_str());
    throw std::runtime_error("cannot write " + path);
  }
}

}  // namespace npy

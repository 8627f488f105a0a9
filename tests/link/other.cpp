#include "other.hpp"

#include <mistral/mistral.hpp>

std::string message_of_other_unit() {
    try {
        mistral::fail("position ", 3);
    } catch (const mistral::Error& error) {
        return error.what();
    }
}

// The shortest guest to restore: waits for a word of its memory, which whoever measures writes into the memory file,
// then writes 123 to the boot timer and an "A" to the serial port. Where the word is 1 it pulls the reset line; where
// it is another, it halts for good. No runtime and no page tables of its own; the bytes mean the same in 32-bit
// protected mode (PVH) and in long mode (Linux 64-bit protocol). It says "W" when it waits.

asm(".section .entry, \"ax\"\n"
    ".globl linux_entry, pvh_entry\n"
    "linux_entry:\n"
    "pvh_entry:\n"
    "  movl $0x800000, %esi\n"
    "  movl $0, (%rsi)\n"
    "  movl $0x3F8, %edx\n"
    "  movb $'W', %al\n"
    "  outb %al, %dx\n"
    "1:\n"
    "  cmpl $0, (%rsi)\n"
    "  je 1b\n"
    "  movl $0x3F0, %edx\n"
    "  movb $123, %al\n"
    "  outb %al, %dx\n"
    "  movl $0x3F8, %edx\n"
    "  movb $'A', %al\n"
    "  outb %al, %dx\n"
    "  cmpl $1, (%rsi)\n"
    "  jne 2f\n"
    "  movb $0xFE, %al\n"
    "  outb %al, $0x64\n"
    "2:\n"
    "  hlt\n"
    "  jmp 2b\n");

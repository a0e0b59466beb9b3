/* Marks the file as bootable by PVH (include/xen/interface/elfnote.h: XEN_ELFNOTE_PHYS32_ENTRY). Linked into a guest's
 * first variant only; without it the file boots by the Linux 64-bit protocol. */
    .section .note.pvh, "a", @note
    .balign 4
    .long 4                             /* size of the name */
    .long 8                             /* size of the address */
    .long 18                            /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad pvh_entry

    .section .note.GNU-stack, "", @progbits

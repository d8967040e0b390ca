package edgetransact.edge;

/** How a process of the app ended, as far as {@link Starts} has to know. */
public enum Ending {
    /** On its own, or nobody knows. */
    CRASHED,
    /** Android ended it for want of memory, while it was seen. */
    LACKED_MEMORY,
    /** For a reason that has nothing to do with what it did: its user, an update. */
    OTHERWISE
}

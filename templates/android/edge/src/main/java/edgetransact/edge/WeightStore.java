package edgetransact.edge;

import edgetransact.edge.EdgeException.Code;
import java.io.FileNotFoundException;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.Set;

/**
 * The weights of models on the phone. A model is used only if all of its files have the sha256 that it lists.
 *
 * <p>Thread-safe as long as no two threads prepare the same model at once.
 */
public final class WeightStore {
    /** Opens a file of a model at an offset. */
    @FunctionalInterface
    private interface Origin {
        InputStream open(Model.File file, long offset) throws IOException, EdgeException;
    }

    private final Source assets;
    private final Packs packs;
    private final Path internal;
    private final Path external;

    /**
     * @param assets the files that travel in the app, and in the asset packs that are installed with it
     * @param packs the asset packs that come after it
     * @param internal where models are copied to, and where it is remembered what was verified: {@code
     *     getFilesDir()/models}
     * @param external where {@code edge-transact install} puts models: {@code getExternalFilesDir(null)/models}
     */
    public WeightStore(Source assets, Packs packs, Path internal, Path external) {
        this.assets = assets;
        this.packs = packs;
        this.internal = internal;
        this.external = external;
    }

    /**
     * Copies a model out of the app or downloads it if need be, and compares it with its sha256 unless that was done
     * before and no file has changed since. A copy or download that was interrupted goes on where it was. Blocks;
     * interrupting the thread ends it.
     *
     * <p>Whatever a model's weights come from but the app itself, those that were installed over adb stand for them.
     *
     * @return the directory of the model, for {@link Session#load}
     * @throws EdgeException {@code WEIGHTS_MISSING}, {@code WEIGHTS_DAMAGED}, {@code STORAGE_FULL}, {@code
     *     STORAGE_FAILED}, {@code DOWNLOAD_FAILED}
     */
    public Path prepare(Model model, Progress progress) throws EdgeException, InterruptedException {
        // No model can have a name that begins with a dot.
        Path part = internal.resolve("." + model.id() + ".part");
        try {
            Files.createDirectories(internal);
            boolean own = isOwn(model) && !isInstalled(model);
            Path directory = own ? internal.resolve(model.id()) : where(model);
            Verified verified = new Verified(internal.resolve("." + model.id() + ".verified"));
            if (!verified.holds(model, directory)) {
                long begun = System.currentTimeMillis();
                if (own) {
                    takeBack(model, directory, part);
                    fill(model, part, progress);
                    Files.move(part, directory);
                } else {
                    verify(model, directory, progress);
                }
                // Others can write where models are installed, and may be doing so; a copy is the app's own.
                if (own || Verified.settled(model, directory, begun)) {
                    verified.remember(model, directory);
                }
            }
            return directory;
        } catch (Download.Failed error) {
            throw EdgeException.of(Code.DOWNLOAD_FAILED, error.getMessage(), error);
        } catch (IOException error) {
            throw EdgeException.of(Code.STORAGE_FAILED, String.valueOf(error.getMessage()), error);
        }
    }

    /** Whether the app makes files of its own for a model. */
    private static boolean isOwn(Model model) {
        return model.weights() != Model.Weights.INSTALL && model.weights() != Model.Weights.FAST_FOLLOW;
    }

    /** Whether all files of a model that isn't in the app itself were put on the phone over adb. */
    private boolean isInstalled(Model model) throws IOException {
        boolean installed = model.weights() != Model.Weights.ASSETS;
        for (Model.File file : model.files()) {
            installed = installed && size(external.resolve(model.id()).resolve(file.path())) == file.bytes();
        }
        return installed;
    }

    /** Where the files of a model are that aren't the app's own. */
    private Path where(Model model) throws IOException, EdgeException {
        if (model.weights() != Model.Weights.FAST_FOLLOW || isInstalled(model)) {
            return external.resolve(model.id());
        }
        Path pack = packs.find(model.pack());
        if (pack == null) {
            throw EdgeException.of(Code.WEIGHTS_MISSING, model.pack());
        }
        return pack.resolve("edge").resolve(model.id());
    }

    /** Deletes copies of models that are no longer in the app, or are elsewhere now, as after an update of it. */
    public void keepOnly(Models models) throws EdgeException {
        Set<String> names = new HashSet<>();
        for (Model model : models.list()) {
            names.add("." + model.id() + ".verified");
            if (isOwn(model)) {
                names.add(model.id());
                names.add("." + model.id() + ".part");
            }
        }
        try {
            if (Files.isDirectory(internal)) {
                for (Path path : Directories.list(internal)) {
                    if (!names.contains(path.getFileName().toString())) {
                        Directories.delete(path);
                    }
                }
            }
        } catch (IOException error) {
            throw EdgeException.of(Code.STORAGE_FAILED, String.valueOf(error.getMessage()), error);
        }
    }

    /** A copy that isn't what it should be becomes the beginning of one: the files that it shares stay. */
    private static void takeBack(Model model, Path directory, Path part) throws IOException {
        if (Files.exists(directory)) {
            Directories.delete(part);
            Files.move(directory, part);
        }
        Files.createDirectories(part);
        for (Path path : Directories.list(part)) {
            String name = path.getFileName().toString();
            if (model.files().stream().noneMatch(file -> file.path().equals(name))) {
                Directories.delete(path);
            }
        }
    }

    private void fill(Model model, Path part, Progress progress)
            throws IOException, EdgeException, InterruptedException {
        if (model.weights() == Model.Weights.DOWNLOAD) {
            try (Download download = new Download(model.url())) {
                copy(model, download::open, part, new Tally(progress, Stage.DOWNLOAD, model.bytes()));
            }
        } else {
            Origin origin = (file, offset) -> open(model.id() + "/" + file.path(), offset);
            copy(model, origin, part, new Tally(progress, Stage.COPY, model.bytes()));
        }
    }

    private void copy(Model model, Origin origin, Path part, Tally tally)
            throws IOException, EdgeException, InterruptedException {
        long needed = 0;
        for (Model.File file : model.files()) {
            needed += file.bytes() - Math.min(size(part.resolve(file.path())), file.bytes());
        }
        requireSpace(needed);
        for (Model.File file : model.files()) {
            Path to = part.resolve(file.path());
            boolean resumed = size(to) > 0;
            long before = tally.done();
            if (!copy(origin, file, to, tally)) {
                Files.delete(to);
                tally.add(before - tally.done());
                // What was there may have been another version's.
                if (!resumed || !copy(origin, file, to, tally)) {
                    Files.deleteIfExists(to);
                    throw EdgeException.of(Code.WEIGHTS_DAMAGED, file.path());
                }
            }
        }
    }

    /** Copies what a file still lacks; returns whether it then is what it should be. */
    private boolean copy(Origin origin, Model.File file, Path to, Sha256.Counter counter)
            throws IOException, EdgeException, InterruptedException {
        if (size(to) > file.bytes()) {
            Files.delete(to);
        }
        Sha256 sha256 = new Sha256(counter);
        long there = size(to);
        if (there > 0) {
            try (InputStream begun = Files.newInputStream(to)) {
                sha256.read(begun);
            }
        }
        try (InputStream from = origin.open(file, there);
                FileOutputStream end = new FileOutputStream(to.toFile(), true)) {
            sha256.copy(from, end);
            // Before the copy is renamed and remembered, it has to survive a battery that is pulled.
            end.getFD().sync();
        } catch (IOException error) {
            if (Thread.interrupted()) {
                throw new InterruptedException();
            }
            requireSpace(file.bytes() - size(to));
            throw error;
        }
        return sha256.hex().equals(file.sha256());
    }

    private static void verify(Model model, Path directory, Progress progress)
            throws IOException, EdgeException, InterruptedException {
        for (Model.File file : model.files()) {
            if (size(directory.resolve(file.path())) < file.bytes()) {
                throw EdgeException.of(Code.WEIGHTS_MISSING, file.path());
            }
        }
        Tally tally = new Tally(progress, Stage.VERIFY, model.bytes());
        for (Model.File file : model.files()) {
            Sha256 sha256 = new Sha256(tally);
            try (InputStream from = Files.newInputStream(directory.resolve(file.path()))) {
                sha256.read(from);
            }
            if (!sha256.hex().equals(file.sha256())) {
                throw EdgeException.of(Code.WEIGHTS_DAMAGED, file.path());
            }
        }
    }

    private InputStream open(String asset, long offset) throws IOException, EdgeException {
        try {
            InputStream opened = assets.open(asset);
            skip(opened, offset);
            return opened;
        } catch (FileNotFoundException error) {
            throw EdgeException.of(Code.WEIGHTS_MISSING, asset, error);
        }
    }

    private void requireSpace(long bytes) throws EdgeException {
        long available = internal.toFile().getUsableSpace();
        if (bytes > available) {
            throw EdgeException.tooLittle(Code.STORAGE_FULL, bytes, available);
        }
    }

    private static void skip(InputStream from, long bytes) throws IOException {
        for (long left = bytes; left > 0; ) {
            long skipped = from.skip(left);
            if (skipped <= 0) {
                return; // it is shorter than what is there, and the sha256 tells
            }
            left -= skipped;
        }
    }

    /** The size of a file, 0 if it isn't there. */
    private static long size(Path path) throws IOException {
        return Files.exists(path) ? Files.size(path) : 0;
    }
}

"""The pictures and their captions: where they are and how they are shown."""

from typing import Literal

from lora_core.settings.base import Resolution, Settings, UserPath, setting


class DatasetSettings(Settings):
    train_dir: UserPath = setting(None, "Image folder", "train_data_dir")
    """The folder that holds folders such as "20_usu bear" (20 repeats, trigger words "usu bear"). A plain folder of images works too."""
    trigger_words: str = setting("", "Trigger words", max_length=500)
    """The words that call up what is trained, for a plain folder of images. Folders named "20_usu bear" carry them in their name."""
    reg_dir: UserPath = setting(None, "Regularisation folder", "reg_data_dir")
    """Optional. Holds folders such as "1_bear" with pictures of the class made by the source model; they keep the LoRA from changing every bear."""
    mask_dir: UserPath = setting(None, "Mask folder", "conditioning_data_dir")
    """For a masked loss from a folder: a picture of the same name for each training image, white where it is trained. Folders such as "20_usu bear" may lie inside."""
    pair_before: UserPath = setting(None, "Copier LoRA: picture or folder before")
    """For a copier LoRA made fast: the picture as it is. With the next one it takes the place of all folders; the LoRA learns only what differs between the two. Two folders work as well: as pairs where file names match, else as opposites (-1 and 1)."""
    pair_after: UserPath = setting(None, "Copier LoRA: picture or folder after")
    """The same picture, in the same size, with one thing changed. The LoRA makes this change at 1 and takes it back at -1. The trigger words, if there are any, describe both."""
    config: UserPath = setting(None, "Dataset file", "dataset_config")
    """Optional. A .toml or .json in the format of sd-scripts with several folders, each with its own repeats, size and options. It takes the place of the folders above; what it leaves open is as set here."""
    metadata_file: UserPath = setting(None, "Caption list (JSON)")
    """Optional. A file that holds the captions and tags of all images in the image folder, as fine-tuning datasets have. Caption files and folder names then do not count."""
    caption_extension: Literal[".txt", ".caption"] = setting(".txt", "Caption file extension", "caption_extension")
    """A file beside each image with the same name and this ending holds its caption. Images without one use the folder's words."""
    resolution: Resolution = setting("512,512", "Max resolution", "max_resolution")
    """Training size in pixels: one number or width,height. With buckets it is the largest area; more is slower and needs more memory."""
    enable_bucket: bool = setting(True, "Enable buckets", "enable_bucket")
    """Groups images by shape, so that portrait and landscape pictures are not cropped to a square."""
    min_bucket_reso: int = setting(256, "Minimum bucket resolution", "min_bucket_reso", ge=8, le=8192)
    """Shortest side of a bucket, in pixels. Not used while upscaling is off."""
    max_bucket_reso: int = setting(2048, "Maximum bucket resolution", "max_bucket_reso", ge=8, le=8192)
    """Longest side of a bucket, in pixels. Not used while upscaling is off."""
    bucket_reso_steps: int = setting(64, "Bucket resolution steps", "bucket_reso_steps", ge=8, le=1024)
    """Sides of buckets are multiples of this many pixels."""
    bucket_no_upscale: bool = setting(True, "Don't upscale bucket resolution", "bucket_no_upscale")
    """Small images stay small instead of being enlarged. Gives more buckets, some with a single image."""
    flip_aug: bool = setting(False, "Flip augmentation", "flip_aug")
    """Half of the time, the mirrored image is shown. Not for characters that differ left and right, nor for text."""
    random_crop: bool = setting(False, "Random crop instead of centre crop", "random_crop")
    """Cuts a different part each time. Images are then encoded at every step: much slower."""
    shuffle_caption: bool = setting(False, "Shuffle caption", "shuffle_caption")
    """Mixes the comma-separated tags of a caption each time, so that their order is not learned."""
    keep_tokens: int = setting(0, "Keep n tokens", "keep_tokens", ge=0, le=255)
    """The first n tags stay in front when captions are shuffled. 1 keeps the trigger word first."""
    keep_tokens_separator: str = setting("", "Keep tokens separator", max_length=40)
    """A mark such as |||. Tags before it stay in front, tags behind a second one stay at the end; only those between are shuffled or dropped. Used instead of the number where a caption has it."""
    caption_separator: str = setting(",", "Caption separator", max_length=40)
    """What stands between the tags of a caption. Empty: a comma."""
    secondary_separator: str = setting("", "Secondary separator", max_length=40)
    """Tags joined by this, such as ;;; are shuffled and dropped as one, then it becomes a comma."""
    enable_wildcard: bool = setting(False, "Enable wildcards")
    """{a|b} in a caption becomes a or b at each showing; {{ and }} stand for braces. Of a caption file with several lines, one line is drawn."""
    weighted_captions: bool = setting(False, "Weighted captions", "weighted_captions")
    """Reads (word:1.2) and [word] in captions as weights, as the web UIs do. Off: brackets are read as they stand."""
    caption_dropout_rate: float = setting(0.0, "Rate of caption dropout", "caption_dropout_rate", ge=0, le=1)
    """Share of steps that train without a caption. 0.05 to 0.1 loosens the tie to the words."""
    caption_dropout_every_n_epochs: int | None = setting(
        None, "Dropout caption every n epochs", "caption_dropout_every_n_epochs", ge=1
    )
    """Every n-th epoch is trained without captions."""
    caption_tag_dropout_rate: float = setting(0.0, "Rate of tag dropout", ge=0, le=1)
    """Share of the tags of a caption that is left out each time. Tags that are kept in front stay."""
    token_warmup_min: int = setting(1, "Token warm-up: first tags", ge=0, le=1000)
    """So many tags are shown at the first step of the token warm-up."""
    token_warmup_step: float | None = setting(None, "Token warm-up: length", gt=0)
    """Until then, captions grow tag by tag. A number of steps from 1 on, below 1 a share of the whole training. Empty: all tags from the start."""
    caption_prefix: str = setting("", "Caption prefix", max_length=1000)
    """Put in front of every caption."""
    caption_suffix: str = setting("", "Caption suffix", max_length=1000)
    """Put behind every caption."""
    cache_latents: Literal["memory", "disk", "off"] = setting("memory", "Cache latents", "cache_latents")
    """Encodes each image once: training is much faster and the VAE leaves the graphics memory. Disk keeps them for the next run."""
    cache_dir: UserPath = setting(None, "Latent cache folder")
    """Where cached latents are kept on disk. Empty: a folder .kumakobo beside the images."""
    skip_bad_images: bool = setting(False, "Skip broken images")
    """Trains without the images that can't be read, after naming them. Off: the run does not start."""

    @property
    def has_pair(self) -> bool:
        """Whether two pictures are trained instead of folders; one of them is enough to tell that it was meant."""
        return self.pair_before is not None or self.pair_after is not None

    @property
    def has_pictures(self) -> bool:
        """Whether it is said where the training pictures are."""
        return self.train_dir is not None or self.config is not None or self.has_pair
